"""Key points in COCO's format.

    root/annotations/*keypoints*.json     or root/*.json when there is exactly one
    root/**/FILE_NAME                     the pictures, by the file_name of the annotation file

Each annotation is one instrument: `keypoints` is [x1, y1, v1, x2, ...] with v 0 not labelled, 1 labelled but hidden,
2 visible. Joint names come from the category. A picture without annotations is labelled and empty, as in COCO; crowds
and annotations with `num_keypoints` 0 are left out. A file named *train*, *val* or *test* makes that part of the split;
its pictures may lie in a folder of that name, or of the last word of the file's (`train2017`).
An image's `video` (or `video_id`), else its folder, else the picture itself, is the video; `frame` (or `frame_id`) is
its time.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from laparoflow.datasets.samples import (
    DatasetError,
    Frame,
    KeypointDataset,
    KeypointSample,
    read_json,
    read_rgb,
    require_folder,
)


class CocoKeypoints(KeypointDataset):
    """Reads COCO-style key points of one category.

    Args:
        root: the folder described above.
        annotations: the annotation file, absolute or below root; None finds them.
        category: name of the category; None takes the only one with key points.

    Raises:
        DatasetError: no or several candidate files or categories, missing pictures, or key points of another length.
    """

    name = "coco_keypoints"
    video_hint = "give each image of the annotation file its `video`"

    def __init__(self, root: Path, annotations: str | None = None, category: str | None = None) -> None:
        root = require_folder(root, self.name)
        files = [root / annotations] if annotations else _annotation_files(root)
        self.joints = ()
        frames: list[Frame] = []
        for path in files:
            content = _content(path)
            chosen = _category(content, category, path)
            joints = tuple(str(name) for name in chosen["keypoints"])
            if self.joints not in ((), joints):
                raise DatasetError(f"{path} has joints {joints}, the other files have {self.joints}")
            self.joints = joints
            part = next((part for part in ("train", "val", "test") if part in path.stem.lower()), "")
            frames += _frames(content, chosen["id"], len(joints), root, path, part if len(files) > 1 else "")
        super().__init__(sorted(frames, key=lambda frame: (frame.video, frame.order, frame.name)))

    def read(self, frame: Frame) -> KeypointSample:
        return KeypointSample(read_rgb(frame.image), frame.label, frame.video, frame.name)


def _annotation_files(root: Path) -> list[Path]:
    files = sorted((root / "annotations").glob("*keypoints*.json")) or sorted(root.glob("*.json"))
    if not files:
        raise DatasetError(f"coco_keypoints: no annotations/*keypoints*.json and no *.json in {root}")
    if files[0].parent == root and len(files) > 1:
        raise DatasetError(f"coco_keypoints: {root} has several JSON files; say which by annotations")
    return files


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    missing = {"images", "annotations", "categories"} - set(content)
    if missing:
        raise DatasetError(f"{path} lacks {', '.join(sorted(missing))}: it is not in COCO's format")
    return content


def _category(content: dict[str, Any], name: str | None, path: Path) -> dict[str, Any]:
    known = [entry for entry in content["categories"] if entry.get("keypoints")]
    chosen = [entry for entry in known if name in (None, entry["name"])]
    if len(chosen) != 1:
        names = [entry["name"] for entry in known]
        raise DatasetError(f"{path} has the key-point categories {names}; say which by category (got {name!r})")
    return chosen[0]


def _frames(content: dict[str, Any], category: int, joints: int, root: Path, path: Path, part: str) -> list[Frame]:
    points: dict[int, list[np.ndarray]] = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation["category_id"] != category or annotation.get("iscrowd") or not annotation.get("num_keypoints", 1):
            continue
        values = np.asarray(annotation["keypoints"], dtype=np.float32)
        if values.size != 3 * joints:
            raise DatasetError(f"{path}: annotation {annotation.get('id')} has {values.size} numbers, not {3 * joints}")
        points[annotation["image_id"]].append(values.reshape(joints, 3))
    frames, prefix = [], f"{part}_" if part else ""
    words = dict.fromkeys(("", part, path.stem.rpartition("_")[2]))
    folders = [base / word for word in words for base in (root, root / "images")]
    for image in content["images"]:
        name = PurePosixPath(image["file_name"])
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is None:
            raise DatasetError(f"{path}: the picture {name} is not below {root}")
        folder = "" if str(name.parent) == "." else str(name.parent)
        video = str(image.get("video", image.get("video_id", folder or f"{prefix}{name.stem}")))
        order = float(image.get("frame", image.get("frame_id", image["id"])))
        label = np.stack(points[image["id"]]) if points[image["id"]] else np.zeros((0, joints, 3), np.float32)
        unique = f"{prefix}{image['id']}_{name.stem}"
        frames.append(Frame(file, label, video, unique, order, part))
    return frames
