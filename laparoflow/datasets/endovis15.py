"""EndoVis'15 instrument segmentation and tracking, as its archives unpack.

    root/**/DatasetN/Video.avi                   robotic: 720 x 576, 25 frames per second
                     *Segmentation.avi           one mask video, or one per instrument (Left_..., Right_...)
                     *_labels.json               key points (see endovis15_pose.py); entry i is frame i
    root/**/OPn/Raw/img_NN_raw.*                 rigid: 640 x 480 stills of human operations
                Masks/img_NN_class.png

Masks are grey: 160 is the shaft, 70 the head with its claspers, 0 the background. Videos add a little codec noise, so
values above 115 count as shaft and those from 40 to 115 as head; of two instruments the larger value counts.
Folders named Training and Testing above the recordings make an official split; testing sequences 1 to 4 continue
training sequences 1 to 4, so it shares scenes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laparoflow.datasets.endovis15_pose import JOINTS, TRACKED, entries, instruments
from laparoflow.datasets.reading import PICTURE_ENDINGS, DatasetError, read_ids
from laparoflow.datasets.samples import Frame, FrameDataset, KeypointDataset, SegmentationDataset
from laparoflow.datasets.video_frames import VideoFrames

CLASSES = ("background", "shaft", "head")
SHAFT_ABOVE, HEAD_FROM = 115, 40
_RECORDING = re.compile(r"Dataset\d+|OP\d+", re.IGNORECASE)


def class_ids(grey: NDArray[Any]) -> NDArray[np.int64]:
    """Class ids of a grey mask [H, W]: 0 background, 1 shaft, 2 head."""
    return np.where(grey > SHAFT_ABOVE, 1, np.where(grey >= HEAD_FROM, 2, 0)).astype(np.int64)


class _FromVideos(FrameDataset[Any]):
    """Pictures that are frames of videos; all selections of a data set share the opened ones."""

    def __init__(self, frames: Sequence[Frame], lacking: str) -> None:
        super().__init__(frames, lacking)
        self._open: dict[Path, VideoFrames] = {}

    def pixels(self, path: Path, frame: Frame, kind: str) -> NDArray[np.uint8]:
        return self._open.setdefault(path, VideoFrames(path, kind))[int(frame.order)]

    def image(self, frame: Frame) -> NDArray[np.uint8]:
        return self.pixels(frame.image, frame, "rgb24")


def _recordings(root: Path, inner: str, name: str) -> list[tuple[Path, str, str]]:
    """(folder, video, published part) of each recording below root that holds `inner`."""
    folders = sorted(path.parent for path in root.rglob(inner) if _RECORDING.fullmatch(path.parent.name))
    if not folders:
        raise DatasetError(f"{name}: no recording (a folder such as Dataset1 or OP1) with {inner} below {root}")
    common = Path(os.path.commonpath([folder.parent for folder in folders]))
    result = []
    for folder in folders:
        words = "_".join(folder.relative_to(root).parts[:-1]).lower()
        part = "train" if "train" in words else "test" if "test" in words else ""
        result.append((folder, "_".join(folder.relative_to(common).parts), part))
    return result


class Endovis15Robotic(_FromVideos, SegmentationDataset):
    """Every frame of the robotic recordings somewhere below a folder, with its mask."""

    name = "endovis15_robotic"
    classes = CLASSES

    def __init__(self, root: Path) -> None:
        frames, notes = [], []
        for folder, video, part in _recordings(self.folder(root), "Video.avi", self.name):
            masks = tuple(sorted(folder.glob("*Segmentation.avi")))
            if not masks:
                notes.append(f"{folder} has no *Segmentation.avi and is left out")
                continue
            counts = {path.name: len(VideoFrames(path)) for path in (folder / "Video.avi", *masks)}
            if len(set(counts.values())) > 1:
                notes.append(f"{folder}: the videos differ in length ({counts}), the frames that all have are read")
            for number in range(min(counts.values())):
                frames.append(Frame(folder / "Video.avi", masks, video, f"{video}_{number:06d}", number, part))
        super().__init__(frames, notes[0] if notes else "no frame")
        self._notes = notes

    def mask(self, frame: Frame) -> NDArray[np.int64]:
        return class_ids(np.max([self.pixels(path, frame, "gray") for path in frame.label], axis=0))


class Endovis15RoboticPose(_FromVideos, KeypointDataset):
    """The frames of the robotic recordings somewhere below a folder that have key points, TrackedPoint too if asked for."""

    name = "endovis15_robotic"

    def __init__(self, root: Path, tracked_point: bool = False) -> None:
        self.joints = (*JOINTS, TRACKED) if tracked_point else JOINTS
        frames = []
        for folder, video, part in _recordings(self.folder(root), "Video.avi", self.name):
            for path in sorted(folder.glob("*_labels.json")):
                found = entries(path)
                count = len(VideoFrames(folder / "Video.avi"))
                if len(found) > count:
                    raise DatasetError(f"{path} has {len(found)} entries, {folder / 'Video.avi'} has {count} frames")
                for number, entry in enumerate(found):
                    points = instruments(entry["annotations"], self.joints, path, number)
                    if len(points):
                        name = f"{video}_{number:06d}"
                        frames.append(Frame(folder / "Video.avi", points, video, name, number, part))
        super().__init__(frames, f"no Dataset folder below {root} has Video.avi and a *_labels.json with points")


class Endovis15Rigid(SegmentationDataset):
    """The stills of the rigid set, operations (OP1, OP2, ...) somewhere below a folder; each operation is a video."""

    name = "endovis15_rigid"
    classes = CLASSES

    def __init__(self, root: Path) -> None:
        frames: list[Frame] = []
        for folder, video, part in _recordings(self.folder(root), "Raw", self.name):
            for image in sorted((folder / "Raw").glob("*_raw.*")):
                if image.suffix.lower() not in PICTURE_ENDINGS:
                    continue
                stem = image.stem.removesuffix("_raw")
                mask = folder / "Masks" / f"{stem}_class.png"
                if not mask.is_file():
                    raise DatasetError(f"{self.name}: {image} has no mask {mask}")
                number = re.search(r"\d+$", stem)
                order = int(number.group()) if number else len(frames)
                frames.append(Frame(image, mask, video, f"{video}_{stem}", order, part))
        super().__init__(frames)

    def mask(self, frame: Frame) -> NDArray[np.int64]:
        return class_ids(read_ids(frame.label))
