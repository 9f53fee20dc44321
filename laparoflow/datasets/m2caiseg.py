"""m2caiSeg: semantic segmentation of 307 laparoscopic images from M2CAI16-tool videos 1 and 2.

    root/{train,trainval,test}/images/N.jpg
    root/{train,trainval,test}/groundtruth/N_gt.png       RGB, as in `TABLE`
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

from laparoflow.datasets.colours import ColourTable
from laparoflow.datasets.reading import DatasetError, read_colours
from laparoflow.datasets.samples import Frame, SegmentationDataset

TABLE = (
    ((170, 0, 85), "unknown", "unknown"),
    ((0, 85, 170), "grasper", "instrument"),
    ((0, 85, 255), "bipolar", "instrument"),
    ((0, 170, 85), "hook", "instrument"),
    ((0, 255, 85), "scissors", "instrument"),
    ((0, 255, 170), "clipper", "instrument"),
    ((85, 0, 170), "irrigator", "instrument"),
    ((85, 0, 255), "specimen-bag", "instrument"),
    ((170, 85, 85), "trocars", "instrument"),
    ((170, 170, 170), "clip", "instrument"),
    ((85, 170, 0), "liver", "liver"),
    ((85, 170, 255), "gall-bladder", "gall-bladder"),
    ((85, 255, 0), "fat", "fat"),
    ((85, 255, 170), "upperwall", "upperwall"),
    ((170, 0, 255), "artery", "artery"),
    ((255, 0, 255), "intestine", "intestine"),
    ((255, 255, 0), "bile", "gall-bladder"),
    ((255, 0, 0), "blood", "gall-bladder"),
    ((0, 0, 0), "black", "black"),
)
"""Colour of the mask, class of 19, and the class of 9 that the authors merge it into: fluids go into gall-bladder."""
COLOURS_19 = tuple(colour for colour, _, _ in TABLE)
CLASSES_19 = tuple(name for _, name, _ in TABLE)
CLASSES_9 = tuple(dict.fromkeys(merged for _, _, merged in TABLE))

NESTED_ROOT = "m2caiSeg dataset"
VIDEO = "m2cai16-tool-1-2"
MEDIAN = 5


class M2caiSeg(SegmentationDataset):
    """Reads m2caiSeg with 19 classes (as published) or 9 (the authors' merge)."""

    name = "m2caiseg"

    def __init__(self, root: Path, classes: Literal[9, 19] = 19) -> None:
        if classes not in (9, 19):
            raise ValueError(f"classes must be 9 or 19, got {classes!r}")
        root = self.folder(root)
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
        self._map = np.array([self.classes.index(name if classes == 19 else merged) for _, name, merged in TABLE])
        self._table = ColourTable(COLOURS_19)

    def findings(self) -> list[str]:
        return self._table.findings("are snapped to the nearest")

    def mask(self, frame: Frame) -> NDArray[np.int64]:
        return self._map[commonest(self._table.ids(read_colours(frame.label), nearest=True), len(CLASSES_19), MEDIAN)]


def commonest(ids: NDArray[np.int64], classes: int, size: int) -> NDArray[np.int64]:
    """The commonest class of ids [H, W] in the size x size pixels around each, its own in a draw."""
    votes = [(ids == label).astype(np.float32) for label in range(classes)]
    counted = [cv2.boxFilter(own, -1, (size, size), normalize=False, borderType=cv2.BORDER_REPLICATE) for own in votes]
    return (np.stack(counted) + 0.5 * np.stack(votes)).argmax(0)


def _pictures(part: Path) -> dict[str, Path]:
    """Stem -> picture, in the order of their numbers."""
    paths = sorted((part / "images").glob("*.jpg"), key=lambda path: (len(path.stem), path.stem))
    return {path.stem: path for path in paths}
