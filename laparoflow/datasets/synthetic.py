"""The synthetic laparoscopy, as `laparoflow.synthetic.write_dataset` lays it out.

root/dataset.json                      classes, key-point names, videos
root/images/clip_000/000000.png        the picture
root/masks/clip_000/000000.png         class ids, 255 = ignored
root/keypoints/clip_000.json           per frame [[x, y, visibility], ...]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from laparoflow.datasets.samples import (
    IGNORE_INDEX,
    DatasetError,
    Frame,
    KeypointDataset,
    KeypointSample,
    SegmentationDataset,
    SegmentationSample,
    read_ids,
    read_json,
    read_rgb,
    require_folder,
    segmentation_sample,
)


def _description(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    description = read_json(path)
    if not isinstance(description, dict):
        raise DatasetError(f"synthetic: {path} must hold a JSON object, got {type(description).__name__}")
    return description


def _names(description: dict[str, Any], key: str, root: Path) -> tuple[str, ...]:
    if not isinstance(description.get(key), list):
        raise DatasetError(f"synthetic: {root / 'dataset.json'} must hold a list under {key!r}")
    return tuple(str(name) for name in description[key])


def _pictures(root: Path) -> list[tuple[str, Path]]:
    return [(folder.name, image) for folder in sorted((root / "images").glob("*")) for image in sorted(folder.glob("*.png"))]


class SyntheticSegmentation(SegmentationDataset):
    """The synthetic laparoscopy with its masks.

    Args:
        root: the folder that `write_dataset` filled.

    Raises:
        DatasetError: `dataset.json` or a mask is missing, or a mask holds an id with no class.
    """

    name = "synthetic"

    def __init__(self, root: Path) -> None:
        root = require_folder(root, self.name)
        self.classes = _names(_description(root), "classes", root)
        super().__init__(
            [
                Frame(image, root / "masks" / clip / image.name, clip, f"{clip}_{image.stem}", int(image.stem))
                for clip, image in _pictures(root)
            ]
        )

    def read(self, frame: Frame) -> SegmentationSample:
        mask = read_ids(frame.label)
        unknown = (mask >= len(self.classes)) & (mask != IGNORE_INDEX)
        if unknown.any():
            raise DatasetError(f"{frame.label} must hold ids below {len(self.classes)} or 255, found {mask[unknown].max()}")
        return segmentation_sample(frame, read_rgb(frame.image), mask)


class SyntheticKeypoints(KeypointDataset):
    """The synthetic laparoscopy with its key points, one instrument per clip.

    Args:
        root: the folder that `write_dataset` filled.

    Raises:
        DatasetError: `dataset.json` or a key-point file is missing or has another number of frames or joints.
    """

    name = "synthetic"

    def __init__(self, root: Path) -> None:
        root = require_folder(root, self.name)
        self.joints = _names(_description(root), "keypoints", root)
        points: dict[str, dict[str, np.ndarray]] = {}
        frames = []
        for clip, image in _pictures(root):
            if clip not in points:
                points[clip] = _read_points(root / "keypoints" / f"{clip}.json", len(self.joints))
            if image.stem not in points[clip]:
                raise DatasetError(f"synthetic: the key points of {clip} lack its frame {image.stem}")
            label = points[clip][image.stem]
            frames.append(Frame(image, label, clip, f"{clip}_{image.stem}", int(image.stem)))
        super().__init__(frames)

    def read(self, frame: Frame) -> KeypointSample:
        return KeypointSample(read_rgb(frame.image), frame.label[None], frame.video, frame.name)


def _read_points(path: Path, joints: int) -> dict[str, np.ndarray]:
    """Frame number as written -> float32 [K, 3], of one clip."""
    try:
        content = read_json(path)["frames"]
        points = {frame: np.asarray(values, dtype=np.float32) for frame, values in content.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"synthetic: cannot read the key points {path}: {error}") from error
    for frame, values in points.items():
        if values.shape != (joints, 3):
            raise DatasetError(f"synthetic: {path}, frame {frame}: expected [{joints}, 3] numbers, got {list(values.shape)}")
    return points
