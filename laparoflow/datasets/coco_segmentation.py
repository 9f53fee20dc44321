"""Masks in COCO's format, as polygons or run lengths; see coco.py for the files.

CVAT, Roboflow, X-AnyLabeling and others export it. The classes are "background" and the categories in the order of
their ids. A later annotation of the file lies over an earlier one; what no annotation covers is background. A pixel
is in a polygon when its centre is, with x from 0 at the left edge of the picture to its width at the right one; several
polygons of an annotation are joined. Run lengths go down the columns; they may be a list or COCO's compressed text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laparoflow.datasets import coco
from laparoflow.datasets.coco import annotation_files, called, coco_frames, field, listed, numbers, outside, read_coco
from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.samples import IGNORE_INDEX, Frame, SegmentationDataset, SegmentationSample

BACKGROUND = "background"


class CocoSegmentation(SegmentationDataset):
    """Reads COCO-style masks of all categories that have annotations, from a folder as in coco.py.

    The annotation file may be named, absolute or below root; None takes those with instances in the name, if any.
    """

    name = "coco_segmentation"
    video_hint = "give each image of the annotation file its `video`"

    def __init__(self, root: Path, annotations: str | None = None) -> None:
        root = self.folder(root)
        files = annotation_files(root, annotations, "*instances*.json", self.name)
        contents = {path: read_coco(path) for path in files}
        named: dict[str, str] = {}
        for path, content in contents.items():
            for entry in sorted(content["categories"], key=lambda entry: (len(str(entry["id"])), str(entry["id"]))):
                if named.setdefault(str(entry["id"]), str(entry["name"])) != str(entry["name"]):
                    raise DatasetError(
                        f"{path}: category {entry['id']} is {entry['name']!r}, elsewhere {named[str(entry['id'])]!r}"
                    )
        used = {str(annotation["category_id"]) for content in contents.values() for annotation in content["annotations"]}
        if unknown := sorted(used - set(named)):
            raise DatasetError(f"{files[0]}: annotations have category_id {', '.join(unknown)}, which no category has")
        self.classes = tuple(dict.fromkeys([BACKGROUND, *(name for number, name in named.items() if number in used)]))
        if not 2 <= len(self.classes) < IGNORE_INDEX:
            raise DatasetError(
                f"{files[0]}: 1 to {IGNORE_INDEX - 2} categories with annotations are needed, got {self.classes}"
            )
        self._class_of = {number: self.classes.index(name) for number, name in named.items() if number in used}
        self._clipped: dict[str, None] = {}
        frames: list[Frame] = []
        for path, content in contents.items():
            for annotation in content["annotations"]:
                what = f"{path}: {called(annotation)}"
                if not isinstance(field(annotation, "segmentation", what), list | dict) or not annotation["segmentation"]:
                    raise DatasetError(f"{what} has neither polygons nor run lengths, perhaps a box alone")
            frames += coco_frames(content, root, path, len(files) > 1)
        super().__init__(sorted(frames, key=lambda frame: (frame.video, frame.order, frame.name)))
        if empty := [name for number, name in named.items() if number not in used]:
            self.warn(f"categories without an annotation are no classes: {', '.join(empty)}")

    def findings(self) -> list[str]:
        return listed(self._clipped, "annotations reach beyond their pictures and are cut off there")

    def read(self, frame: Frame) -> SegmentationSample:
        image = coco.read_picture(frame)
        mask = np.zeros(image.shape[:2], dtype=np.int64)
        for annotation in frame.label.annotations:
            what = f"{frame.image.name}: {called(annotation)}"
            region = self._region(annotation["segmentation"], image.shape[:2], what)
            mask[region] = self._class_of[str(annotation["category_id"])]
        return SegmentationSample(image, mask, frame.video, frame.name)

    def _region(self, given: Any, size: tuple[int, int], what: str) -> NDArray[np.bool_]:
        """What one annotation covers, bool [H, W]."""
        if isinstance(given, dict):
            return run_length_mask(field(given, "counts", what), given.get("size"), size, what)
        region = np.zeros(size, dtype=bool)
        for polygon in given if isinstance(given[0], list) else [given]:
            values = numbers(polygon, f"{what}: a polygon")
            if len(values) < 6 or len(values) % 2:
                raise DatasetError(f"{what}: a polygon must be x, y of three points or more, got {len(values)} numbers")
            points = values.reshape(-1, 2)
            if outside(points, size).any():
                self._clipped[what] = None
            region |= polygon_mask(points, size)
        return region


def polygon_mask(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels [H, W] whose centre (column + 0.5, row + 0.5) lies in a polygon [n, 2] of (x, y), by the even-odd rule."""
    height, width = size
    crossings = np.zeros((height, width + 1), dtype=np.int32)  # edges that a row crosses left of a pixel's centre
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in sorted((y0, y1)))
        rows = np.arange(first, last)
        if len(rows):
            x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            crossings[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)] += 1
    return crossings[:, :width].cumsum(axis=1) % 2 == 1


def run_length_mask(counts: Any, written: Any, size: tuple[int, int], what: str) -> NDArray[np.bool_]:
    """Pixels [H, W] of run lengths, down the columns, off first: a list, or COCO's compressed text.

    ``written`` is the (height, width) that the file gives, ``size`` the picture's; ``what`` names the annotation.
    """
    if list(written or []) != list(size):
        raise DatasetError(f"{what}: run lengths of size {written} (height, width), the picture is {list(size)}")
    lengths = numbers(_decompressed(counts) if isinstance(counts, str) else counts, f"{what}: counts").astype(np.int64)
    if (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise DatasetError(f"{what}: run lengths sum up to {lengths.sum()}, the picture has {size[0] * size[1]} pixels")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size[1], size[0]).T


def _decompressed(text: str) -> list[int]:
    """COCO's text: five bits a character from 48 on, 32 says that more follow, signed; from the fourth on, differences."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
            value = shift = 0
    return lengths
