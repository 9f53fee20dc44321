"""CholecSeg8k: semantic segmentation of laparoscopic cholecystectomy, 17 videos, 854 x 480.

    root/videoXX/videoXX_SSSSS/frame_N_endo.png                  the picture
                               frame_N_endo_watershed_mask.png   the label: grey value -> class (`TABLE`)

`frame_N_endo_mask.png` is sparse and is not the label. A few masks are RGBA instead of RGB. Grey 0 and 255 are
border or labelling errors and are ignored. The published split is by video (13 to train, 2 to validate, 2 to test).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from laparoflow.datasets.reading import DatasetError, read_colours
from laparoflow.datasets.samples import IGNORE_INDEX, Frame, SegmentationDataset

TABLE = (
    (50, "background", "background"),
    (11, "abdominal wall", "abdominal wall"),
    (21, "liver", "liver"),
    (13, "gastrointestinal tract", "gastrointestinal tract"),
    (12, "fat", "fat"),
    (31, "grasper", "instrument"),
    (23, "connective tissue", "misc"),
    (24, "blood", "misc"),
    (25, "cystic duct", "misc"),
    (32, "L-hook electrocautery", "instrument"),
    (22, "gallbladder", "gallbladder"),
    (33, "hepatic vein", "misc"),
    (5, "liver ligament", "misc"),
)
"""Grey value of the mask, class of 13, class of 8."""
IGNORED_GREYS = (0, 255)
CLASSES_13 = tuple(name for _, name, _ in TABLE)
CLASSES_8 = (*CLASSES_13[:5], "gallbladder", "misc", "instrument")

PUBLISHED_VIDEOS = {"train": (1, 9, 18, 20, 24, 25, 26, 28, 35, 37, 43, 48, 55), "val": (17, 52), "test": (12, 27)}
"""The split by video that EndoViT and the comparison of Silva et al. (2022) use."""

_PART = {f"video{number:02d}": part for part, numbers in PUBLISHED_VIDEOS.items() for number in numbers}
_FRAME_FILE = re.compile(r"frame_(\d+)_endo\.png")


class CholecSeg8k(SegmentationDataset):
    """Reads CholecSeg8k with 13 classes (as published) or 8 (the merged protocol), from the folder that holds `video01`, ...

    Example:
        >>> CholecSeg8k(Path("cholecseg8k"), classes=8)[0].mask.shape  # doctest: +SKIP
        (480, 854)
    """

    name = "cholecseg8k"

    def __init__(self, root: Path, classes: Literal[8, 13] = 13) -> None:
        if classes not in (8, 13):
            raise ValueError(f"classes must be 8 or 13, got {classes!r}")
        root = self.folder(root)
        frames = []
        for image in root.glob("video*/video*_*/frame_*_endo.png"):
            match = _FRAME_FILE.fullmatch(image.name)
            if match is None:
                continue
            mask = image.with_name(image.name.replace("_endo.png", "_endo_watershed_mask.png"))
            number = int(match.group(1))
            clip, video = image.parent.name, image.parent.parent.name
            frames.append(Frame(image, mask, video, f"{clip}_{number:06d}", number, _PART.get(video, "")))
        frames.sort(key=lambda frame: (frame.video, frame.order, frame.name))
        super().__init__(frames, f"no videoXX/videoXX_SSSSS/frame_N_endo.png under {root}")
        self.classes = CLASSES_13 if classes == 13 else CLASSES_8
        self._lookup = np.full(256, -1, dtype=np.int64)  # -1: the data set defines nothing
        self._lookup[list(IGNORED_GREYS)] = IGNORE_INDEX
        for grey, fine, merged in TABLE:
            self._lookup[grey] = self.classes.index(fine if classes == 13 else merged)

    def mask(self, frame: Frame) -> NDArray[np.int64]:
        colours = read_colours(frame.label)
        if (colours[..., :1] != colours).any():
            raise DatasetError(f"{frame.label} is coloured; a watershed mask has equal channels")
        grey = colours[..., 0]
        mask = self._lookup[grey]
        if (mask < 0).any():
            unknown, counts = np.unique(grey[mask < 0], return_counts=True)
            found = ", ".join(f"{value} ({count} px)" for value, count in zip(unknown, counts, strict=True))
            raise DatasetError(f"{frame.label}: grey values that CholecSeg8k does not define: {found}")
        return mask
