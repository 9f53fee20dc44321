"""Annotation files in COCO's format: what key points and masks have in common.

    root/annotations/*.json            or root/*.json when there is exactly one (CVAT, X-AnyLabeling, COCO itself)
    root/PART/_annotations.coco.json   with the pictures beside it (Roboflow)
    root/**/FILE_NAME                  the pictures, by the file_name of the annotation file

A file whose name (or, with Roboflow's name, whose folder) has train, val or test in it makes that part of the split; its
pictures may lie in a folder of that name, or of the last word of the file's (`train2017`). An image's `video` (or
`video_id`), else its folder, else the picture itself, is the video; `frame` (or `frame_id`) is its time. Identifiers
may be numbers or texts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laparoflow.datasets.reading import DatasetError, read_json, read_rgb
from laparoflow.datasets.samples import Frame

ROBOFLOW = "_annotations.coco.json"
SHOWN = 3


@dataclass(frozen=True)
class CocoLabel:
    """The annotations of a picture in the order of the file, and its (height, width) where the file gives them."""

    annotations: tuple[dict[str, Any], ...]
    size: tuple[int, int] | None


def annotation_files(root: Path, annotations: str | None, pattern: str, reader: str) -> list[Path]:
    """The annotation files of a folder, those in `annotations/` whose name fits ``pattern`` first; or the one asked for."""
    if annotations:
        return [root / annotations]
    inside = root / "annotations"
    files = sorted(inside.glob(pattern)) or sorted(root.glob(f"*/{ROBOFLOW}")) or sorted(inside.glob("*.json"))
    if files:
        return files
    files = sorted(root.glob("*.json"))
    if len(files) != 1:
        found = f"{len(files)} JSON files, say which by annotations" if files else "no *.json"
        raise DatasetError(f"{reader}: {root} has no annotations/*.json, no */{ROBOFLOW} and {found}")
    return files


def field(entry: Any, key: str, what: str) -> Any:
    """`entry[key]`, or a DatasetError that says what lacks it."""
    if not isinstance(entry, dict) or entry.get(key) is None:
        raise DatasetError(f"{what} has no {key}")
    return entry[key]


def read_coco(path: Path) -> dict[str, Any]:
    """The content of an annotation file, its images, annotations and categories checked for their identifiers."""
    content = read_json(path)
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DatasetError(f"{path} lacks {', '.join(sorted(missing))}: it is not in COCO's format")
    for kind, entry_name, name in (("images", "image", "file_name"), ("categories", "category", "name")):
        for number, entry in enumerate(content[kind]):
            for key in ("id", name):
                field(entry, key, f"{path}: {entry_name} {number} of the list")
    images = {str(image["id"]) for image in content["images"]}
    for number, annotation in enumerate(content["annotations"]):
        for key in ("category_id", "image_id"):
            field(annotation, key, f"{path}: {called(annotation, number)}")
        if str(annotation["image_id"]) not in images:
            raise DatasetError(
                f"{path}: {called(annotation, number)} has image_id {annotation['image_id']!r}: no image has it"
            )
    return content


def called(annotation: Any, number: int | None = None) -> str:
    """How messages name an annotation."""
    if isinstance(annotation, dict) and annotation.get("id") is not None:
        return f"annotation {annotation['id']}"
    return f"annotation {number} of the list" if number is not None else "an annotation without id"


def coco_frames(content: Mapping[str, Any], root: Path, path: Path, several: bool) -> list[Frame]:
    """The pictures of one annotation file, each with a CocoLabel of its annotations.

    ``several`` says whether the data set has other annotation files, so that this one is a part.
    """
    by_image: dict[str, list[dict[str, Any]]] = {str(image["id"]): [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[str(annotation["image_id"])].append(annotation)
    named = path.parent.name if path.name == ROBOFLOW else path.stem
    part = next((part for part in ("train", "val", "test") if several and part in named.lower()), "")
    prefix = f"{part}_" if part else ""
    words = dict.fromkeys(("", part, path.stem.rpartition("_")[2]))
    folders = [path.parent, *(base / word for word in words for base in (root, root / "images"))]
    frames = []
    for number, image in enumerate(content["images"]):
        name = PurePosixPath(str(image["file_name"]).replace("\\", "/"))
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is None:
            raise DatasetError(f"{path}: the picture {name} is not below {root}")
        folder = "" if str(name.parent) == "." else str(name.parent)
        video = str(image.get("video", image.get("video_id", folder or f"{prefix}{name.stem}")))
        try:
            order = float(image.get("frame", image.get("frame_id", image["id"] if isinstance(image["id"], int) else number)))
            size = (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{path}: image {image['id']} has a frame, height or width that is no number") from error
        label = CocoLabel(tuple(by_image[str(image["id"])]), size)
        frames.append(Frame(file, label, video, f"{prefix}{image['id']}_{name.stem}", order, part))
    return frames


def read_picture(frame: Frame) -> NDArray[np.uint8]:
    """The picture of a frame, uint8 [H, W, 3]; an error where its size is not what the annotation file says."""
    image, size = read_rgb(frame.image), frame.label.size
    if size is not None and image.shape[:2] != size:
        raise DatasetError(
            f"{frame.image} is {image.shape[1]} x {image.shape[0]} (upright), its annotation file says {size[1]} x {size[0]}"
        )
    return image


def listed(places: Collection[str], text: str) -> list[str]:
    """A sentence about places that were met, some of them named, or nothing."""
    return [f"{len(places)} {text}: {'; '.join(list(places)[:SHOWN])}"] if places else []


def numbers(values: Any, what: str) -> NDArray[np.float64]:
    """A flat list of finite numbers."""
    try:
        result = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        result = np.full(1, np.nan)
    if result.ndim != 1 or not np.isfinite(result).all():
        raise DatasetError(f"{what} must be a flat list of numbers, got {str(values)[:60]}")
    return result


def outside(points: NDArray[np.floating], size: Sequence[int]) -> NDArray[np.bool_]:
    """Which points (x, y) [..., 2] lie more than a pixel beyond a picture of (height, width)."""
    return (points < -1).any(-1) | (points[..., 0] > size[1] + 1) | (points[..., 1] > size[0] + 1)
