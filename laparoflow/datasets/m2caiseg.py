"""m2caiSeg: semantic segmentation of 307 laparoscopic images from M2CAI16-tool videos 1 and 2.

    root/{train,trainval,test}/images/N.jpg
    root/{train,trainval,test}/groundtruth/N_gt.png       RGB, colours below
    (root may also be the folder that holds "m2caiSeg dataset")

The masks are noisy. As their authors do, stray colours are snapped to the nearest class colour and a 5 x 5 median is
taken (here the commonest class of the neighbourhood, the median of unordered labels); stray colours are counted and
reported. `validation` is what trainval holds and train does not. Both parts come from two videos and the files do not
say which, so train and test share patients: the published split is by frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from laparoflow.datasets.colours import NO_CLASS, ColourTable
from laparoflow.datasets.samples import (
    IGNORE_INDEX,
    DatasetError,
    Frame,
    SegmentationDataset,
    SegmentationSample,
    read_colours,
    read_rgb,
    require_folder,
    segmentation_sample,
)

CLASSES_19 = (
    "unknown",
    "grasper",
    "bipolar",
    "hook",
    "scissors",
    "clipper",
    "irrigator",
    "specimen-bag",
    "trocars",
    "clip",
    "liver",
    "gall-bladder",
    "fat",
    "upperwall",
    "artery",
    "intestine",
    "bile",
    "blood",
    "black",
)
COLOURS_19 = (
    (170, 0, 85),
    (0, 85, 170),
    (0, 85, 255),
    (0, 170, 85),
    (0, 255, 85),
    (0, 255, 170),
    (85, 0, 170),
    (85, 0, 255),
    (170, 85, 85),
    (170, 170, 170),
    (85, 170, 0),
    (85, 170, 255),
    (85, 255, 0),
    (85, 255, 170),
    (170, 0, 255),
    (255, 0, 255),
    (255, 255, 0),
    (255, 0, 0),
    (0, 0, 0),
)
CLASSES_9 = (
    "unknown",
    "instrument",
    "liver",
    "gall-bladder",
    "fat",
    "upperwall",
    "artery",
    "intestine",
    "black",
)
"""The authors' merge: instruments together, fluids (bile, blood) into gall-bladder, artery kept."""
CLASS_19_TO_9 = (0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 3, 3, 8)

NESTED_ROOT = "m2caiSeg dataset"
VIDEO = "m2cai16-tool-1-2"
MEDIAN = 5
Stray = Literal["nearest", "ignore"]


class M2caiSeg(SegmentationDataset):
    """Reads m2caiSeg with 19 or 9 classes.

    Args:
        root: the folder that holds train, trainval and test (or "m2caiSeg dataset").
        classes: 19 (as published) or 9 (the authors' merge).
        stray: what happens to pixels of a colour that no class has: "nearest" snaps them, "ignore" leaves them out.
        smooth: take the commonest class of each 5 x 5 neighbourhood after snapping.

    Raises:
        DatasetError: train or test is missing or empty, or a mask is missing or has another size than its picture.
    """

    name = "m2caiseg"

    def __init__(self, root: Path, classes: Literal[9, 19] = 19, stray: Stray = "nearest", smooth: bool = True) -> None:
        if classes not in (9, 19):
            raise ValueError(f"classes must be 9 or 19, got {classes!r}")
        if stray not in ("nearest", "ignore"):
            raise ValueError(f"stray must be nearest or ignore, got {stray!r}")
        root = require_folder(root, self.name)
        if (root / NESTED_ROOT).is_dir():
            root = root / NESTED_ROOT
        pictures = {part: _pictures(root / part) for part in ("train", "trainval", "test")}
        for part in ("train", "test"):
            if not pictures[part]:
                raise DatasetError(f"{self.name}: no picture in {root / part / 'images'}")
        pictures["val"] = {stem: path for stem, path in pictures["trainval"].items() if stem not in pictures["train"]}
        frames = [
            Frame(path, path.parent.parent / "groundtruth" / f"{stem}_gt.png", VIDEO, f"{part}_{stem}", n, part)
            for part in ("train", "val", "test")
            for n, (stem, path) in enumerate(pictures[part].items())
        ]
        super().__init__(frames)
        self.classes = CLASSES_19 if classes == 19 else CLASSES_9
        self._map = np.arange(19) if classes == 19 else np.array(CLASS_19_TO_9)
        self._table = ColourTable(COLOURS_19)
        self._stray, self._smooth = stray, smooth

    def findings(self) -> list[str]:
        return self._table.findings("are snapped to the nearest" if self._stray == "nearest" else "are ignored")

    def read(self, frame: Frame) -> SegmentationSample:
        pixels = read_colours(frame.label)
        ids = self._table.nearest(pixels) if self._stray == "nearest" else self._table.exact(pixels)
        known = ids != NO_CLASS
        if self._smooth:
            ids = commonest(np.where(known, ids, 0), known, len(CLASSES_19), MEDIAN)
        mask = np.where(known, self._map[np.where(known, ids, 0)], IGNORE_INDEX)
        return segmentation_sample(frame, read_rgb(frame.image), mask)


def commonest(ids: NDArray[np.int64], known: NDArray[np.bool_], classes: int, size: int) -> NDArray[np.int64]:
    """The commonest known class in the size x size neighbourhood of each pixel; a pixel's own class wins a draw.

    Args:
        ids: class ids [H, W].
        known: bool [H, W], which pixels vote.
        classes: number of classes.
        size: odd side of the neighbourhood, in pixels.
    """
    votes = np.stack([((ids == c) & known).astype(np.float32) for c in range(classes)], axis=-1)
    counted = np.stack(
        [
            cv2.boxFilter(votes[..., c], -1, (size, size), normalize=False, borderType=cv2.BORDER_REPLICATE)
            for c in range(classes)
        ],
        axis=-1,
    )
    return (counted + 0.5 * votes).argmax(-1)


def _pictures(part: Path) -> dict[str, Path]:
    """Stem -> picture, in the order of their numbers."""
    paths = [path for path in (part / "images").glob("*.jpg")]
    return {path.stem: path for path in sorted(paths, key=lambda p: (len(p.stem), p.stem))}
