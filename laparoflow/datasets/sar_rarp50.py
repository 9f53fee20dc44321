"""SAR-RARP50: instrument segmentation in robotic prostatectomy, 1920 x 1080.

    root/{train1,train2,test}/video_*/video_left.avi            60 frames per second
                                      rgb/%09d.png              10 per second, numbered in frames of the video
                                      segmentation/%09d.png     1 per second, class ids 0 (background) to 9

Only frames with a mask are labelled; mask and picture share their number. `video_11_1` and `video_11_2` are two parts
of one procedure: they count as one video in splits, and apart in the challenge's score (`folder_of`).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laparoflow.datasets.reading import DatasetError, read_ids
from laparoflow.datasets.samples import Frame, SegmentationDataset

CLASSES = (
    "background", "tool clasper", "tool wrist", "tool shaft", "suturing needle", "thread", "suction tool", "needle holder",
    "clamps", "catheter",
)  # fmt: skip
PART_OF_FOLDER = {"train1": "train", "train2": "train", "test": "test"}
_VIDEO = re.compile(r"^(video_\d+)(?:_\d+)?$")


class SarRarp50(SegmentationDataset):
    """SAR-RARP50's masks and the pictures that were sampled from its videos, in a folder with train1, train2 and test."""

    name = "sar_rarp50"
    classes = CLASSES

    def __init__(self, root: Path) -> None:
        root = self.folder(root)
        frames, missing = [], []
        for folder, part in PART_OF_FOLDER.items():
            for mask in sorted((root / folder).glob("video_*/segmentation/*.png")):
                directory = mask.parent.parent
                image = directory / "rgb" / mask.name
                if not image.is_file():
                    missing.append(image)
                    continue
                video = _VIDEO.sub(r"\1", directory.name)
                frames.append(Frame(image, mask, video, f"{directory.name}_{mask.stem}", int(mask.stem), part))
        super().__init__(frames, f"no mask under {root} has a picture in rgb/; sample the videos into it first", missing)

    def mask(self, frame: Frame) -> NDArray[np.int64]:
        ids = read_ids(frame.label)
        if np.max(ids, initial=0) >= len(CLASSES):
            raise DatasetError(f"{frame.label}: class ids go up to {len(CLASSES) - 1}, found {np.max(ids)}")
        return ids


def folder_of(frame: Frame) -> str:
    """Name of the frame's video folder, by which the challenge averages."""
    return frame.image.parent.parent.name
