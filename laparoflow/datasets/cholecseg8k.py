"""CholecSeg8k: semantic segmentation of laparoscopic cholecystectomy, 17 videos, 854 x 480.

    root/videoXX/videoXX_SSSSS/frame_N_endo.png                  the picture
                               frame_N_endo_watershed_mask.png   the label: grey value -> class (table below)

`frame_N_endo_mask.png` is sparse and is not the label. A few masks are RGBA instead of RGB. Grey 0 and 255 are
border or labelling errors and are ignored. The published split is by video (13 to train, 2 to validate, 2 to test).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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

CLASSES_13 = (
    "background",
    "abdominal wall",
    "liver",
    "gastrointestinal tract",
    "fat",
    "grasper",
    "connective tissue",
    "blood",
    "cystic duct",
    "L-hook electrocautery",
    "gallbladder",
    "hepatic vein",
    "liver ligament",
)
GREY_TO_CLASS = {50: 0, 11: 1, 21: 2, 13: 3, 12: 4, 31: 5, 23: 6, 24: 7, 25: 8, 32: 9, 22: 10, 33: 11, 5: 12}
IGNORED_GREYS = (0, 255)

CLASSES_8 = (
    "background",
    "abdominal wall",
    "liver",
    "gastrointestinal tract",
    "fat",
    "gallbladder",
    "misc",
    "instrument",
)
"""misc is connective tissue, blood, cystic duct, hepatic vein and liver ligament."""
CLASS_13_TO_8 = (0, 1, 2, 3, 4, 7, 6, 6, 6, 7, 5, 6, 6)

PUBLISHED_VIDEOS = {
    "train": (1, 9, 18, 20, 24, 25, 26, 28, 35, 37, 43, 48, 55),
    "val": (17, 52),
    "test": (12, 27),
}
"""The split by video that EndoViT and the comparison of Silva et al. (2022) use."""
FEW_VIDEOS = {
    1: ((9,), (28,), (43,)),
    2: ((24, 1), (25, 48), (55, 28)),
    4: ((18, 48, 25, 1), (28, 55, 24, 37), (37, 18, 24, 20)),
}
"""Few-label training subsets by number of videos, three of each, as in EndoViT's public code."""

_PART = {f"video{number:02d}": part for part, numbers in PUBLISHED_VIDEOS.items() for number in numbers}
_FRAME_FILE = re.compile(r"frame_(\d+)_endo\.png")


class CholecSeg8k(SegmentationDataset):
    """Reads CholecSeg8k with 13 or 8 classes.

    Args:
        root: the folder that holds `video01`, `video09`, ...
        classes: 13 (as published) or 8 (the merged protocol).

    Raises:
        DatasetError: no frame is found, a mask is missing, or a mask holds a grey value that the data set
            does not define.

    Example:
        >>> dataset = CholecSeg8k(Path("cholecseg8k"), classes=8)  # doctest: +SKIP
        >>> dataset[0].mask.shape  # doctest: +SKIP
        (480, 854)
    """

    name = "cholecseg8k"

    def __init__(self, root: Path, classes: Literal[8, 13] = 13) -> None:
        if classes not in (8, 13):
            raise ValueError(f"classes must be 8 or 13, got {classes!r}")
        root = require_folder(root, self.name)
        frames = []
        for image in root.glob("video*/video*_*/frame_*_endo.png"):
            match = _FRAME_FILE.fullmatch(image.name)
            if match is None:
                continue
            mask = image.with_name(image.name.replace("_endo.png", "_endo_watershed_mask.png"))
            number = int(match.group(1))
            clip, video = image.parent.name, image.parent.parent.name
            frames.append(Frame(image, mask, video, f"{clip}_{number:06d}", number, _PART.get(video, "")))
        if not frames:
            raise DatasetError(f"{self.name}: no videoXX/videoXX_SSSSS/frame_N_endo.png under {root}")
        super().__init__(sorted(frames, key=lambda frame: (frame.video, frame.order, frame.name)))
        self.classes = CLASSES_13 if classes == 13 else CLASSES_8
        self._lookup = _lookup_table(classes)

    def read(self, frame: Frame) -> SegmentationSample:
        image = read_rgb(frame.image)
        grey = read_grey_mask(frame.label)
        mask = self._lookup[grey]
        if (mask < 0).any():
            unknown, counts = np.unique(grey[mask < 0], return_counts=True)
            found = ", ".join(f"{value} ({count} px)" for value, count in zip(unknown, counts, strict=False))
            raise DatasetError(f"{frame.label}: grey values that CholecSeg8k does not define: {found}")
        return segmentation_sample(frame, image, mask)


def read_grey_mask(path: Path) -> NDArray[np.uint8]:
    """Reads a watershed mask as its grey value [H, W]; RGB, RGBA, palette and plain grey files are accepted.

    Raises:
        DatasetError: the file cannot be read, or its colour channels differ (it is another of the masks).
    """
    pixels = read_colours(path)
    if (pixels[..., :1] != pixels).any():
        raise DatasetError(f"{path} is coloured; a watershed mask has equal channels")
    return pixels[..., 0]


def _lookup_table(classes: int) -> NDArray[np.int64]:
    """[256] grey value -> class id, IGNORE_INDEX, or -1 where the data set defines nothing."""
    table = np.full(256, -1, dtype=np.int64)
    for grey, label in GREY_TO_CLASS.items():
        table[grey] = label if classes == 13 else CLASS_13_TO_8[label]
    table[list(IGNORED_GREYS)] = IGNORE_INDEX
    return table
