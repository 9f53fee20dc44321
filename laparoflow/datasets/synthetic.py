"""The synthetic laparoscopy, as `laparoflow.synthetic.write_dataset` lays it out.

root/dataset.json                      classes, key-point names, videos
root/images/clip_000/000000.png        the picture
root/masks/clip_000/000000.png         class ids, 255 = ignored
root/keypoints/clip_000.json           per frame [[x, y, visibility], ...]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laparoflow.datasets.reading import DatasetError, read_ids, read_json
from laparoflow.datasets.samples import IGNORE_INDEX, Frame, KeypointDataset, SegmentationDataset


def _names(root: Path, key: str) -> tuple[str, ...]:
    path = root / "dataset.json"
    description = read_json(path)
    if not isinstance(description, dict) or not isinstance(description.get(key), list):
        raise DatasetError(f"synthetic: {path} must hold a JSON object with a list under {key!r}")
    return tuple(str(name) for name in description[key])


def _pictures(root: Path) -> list[tuple[str, Path]]:
    return [(folder.name, image) for folder in sorted((root / "images").glob("*")) for image in sorted(folder.glob("*.png"))]


class SyntheticSegmentation(SegmentationDataset):
    """The synthetic laparoscopy that `write_dataset` wrote, with its masks."""

    name = "synthetic"

    def __init__(self, root: Path) -> None:
        root = self.folder(root)
        self.classes = _names(root, "classes")
        masks = root / "masks"
        super().__init__([
            Frame(image, masks / clip / image.name, clip, f"{clip}_{image.stem}", int(image.stem))
            for clip, image in _pictures(root)
        ])  # fmt: skip

    def mask(self, frame: Frame) -> NDArray[np.int64]:
        mask = read_ids(frame.label)
        unknown = (mask >= len(self.classes)) & (mask != IGNORE_INDEX)
        if unknown.any():
            raise DatasetError(f"{frame.label} must hold ids below {len(self.classes)} or 255, found {mask[unknown].max()}")
        return mask


class SyntheticKeypoints(KeypointDataset):
    """The synthetic laparoscopy that `write_dataset` wrote, with its key points, one instrument per clip."""

    name = "synthetic"

    def __init__(self, root: Path) -> None:
        root = self.folder(root)
        self.joints = _names(root, "keypoints")
        pictures, files = _pictures(root), root / "keypoints"
        points = {clip: _read_points(files / f"{clip}.json", len(self.joints)) for clip in dict(pictures)}
        frames = []
        for clip, image in pictures:
            if image.stem not in points[clip]:
                raise DatasetError(f"synthetic: the key points of {clip} lack its frame {image.stem}")
            label = points[clip][image.stem][None]
            frames.append(Frame(image, label, clip, f"{clip}_{image.stem}", int(image.stem)))
        super().__init__(frames)


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
