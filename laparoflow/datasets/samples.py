"""Labelled frames: what a reader gives, whatever the data set.

A reader is a list of `Frame` (which files, which video, when in it) plus a way to turn one into a sample.
Frames are known before any pixel is read, so splits and label budgets never decode an image.

    SegmentationSample.image  uint8  [H, W, 3]  RGB
    SegmentationSample.mask   int64  [H, W]     class id, or IGNORE_INDEX where there is no usable label
    KeypointSample.keypoints  float32 [I, K, 3] (x, y, visibility) per instrument and joint, x and y in pixels,
                                                pixel centres at integers; visibility 0 absent, 1 occluded, 2 visible
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from laparoflow.datasets.reading import DatasetError, read_rgb

IGNORE_INDEX = 255
ABSENT, OCCLUDED, VISIBLE = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class Frame:
    """One labelled frame, known by its files alone.

    Attributes:
        image, label: the picture's file, and the label's or what the reader needs to make the label.
        video: name of the video (or patient) that the frame is from; splits never divide it unless asked to.
        name: unique within the data set, usable as a file name.
        order: position in time within the video (any unit that grows with time).
        part: the published split's part that the frame is in ("train", "val", "test"), or "" where none is published.
    """

    image: Path
    label: Any
    video: str
    name: str
    order: float
    part: str = ""


@dataclass(frozen=True)
class SegmentationSample:
    """A picture with its class map; see the module's docstring for shapes."""

    image: NDArray[np.uint8]
    mask: NDArray[np.int64]
    video: str
    name: str


@dataclass(frozen=True)
class KeypointSample:
    """A picture with its key points; see the module's docstring for shapes."""

    image: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    video: str
    name: str


SampleT = TypeVar("SampleT", SegmentationSample, KeypointSample)


class FrameDataset(Generic[SampleT]):
    """A sequence of labelled frames with known videos; subclasses say how one frame is read.

    Opening a data set and reading a frame raise a DatasetError, which names the file, where something is missing or is not
    as the reader's module describes it.

    Attributes:
        frames: in a fixed order (by video, then by time).
        name: the data set's name on the command line.
        video_hint: how one says which video a picture is from, for sets whose files need not tell; else "".
    """

    name: str = ""
    video_hint: str = ""

    def __init__(
        self, frames: Sequence[Frame], lacking: str = "no labelled frame was found", missing: Sequence[object] = ()
    ) -> None:
        """Frames in a fixed order; ``missing`` are pictures that labels name and that are not there."""
        named = f"{len(missing)} labelled frames have no picture, the first is {missing[0]}" if missing else ""
        if not frames:
            raise DatasetError("; ".join(filter(None, [f"{self.name or type(self).__name__}: {lacking}", named])))
        self.frames = tuple(frames)
        self._notes = [named] if missing else []

    def folder(self, root: Path) -> Path:
        """`root`, or a DatasetError where it is no folder."""
        if not Path(root).is_dir():
            raise DatasetError(f"{self.name}: root {root} is not a folder")
        return Path(root)

    def image(self, frame: Frame) -> NDArray[np.uint8]:
        """The picture of a frame, uint8 [H, W, 3]."""
        return read_rgb(frame.image)

    def read(self, frame: Frame) -> SampleT:
        """Reads one frame from disk."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> SampleT:
        return self.read(self.frames[index])

    def __iter__(self) -> Iterator[SampleT]:
        return (self.read(frame) for frame in self.frames)

    @property
    def warnings(self) -> list[str]:
        """What the reader has to tell, in words; may grow while frames are read."""
        return [*self._notes, *self.findings()]

    def findings(self) -> list[str]:
        """What reading the frames brought to light so far, in words."""
        return []

    def warn(self, text: str) -> None:
        self._notes.append(text)

    @property
    def videos(self) -> tuple[str, ...]:
        """Names of the videos, each once, in the order of the frames."""
        return tuple(dict.fromkeys(frame.video for frame in self.frames))

    def select(self, indices: Sequence[int]) -> Self:
        """The same data set with only these frames, in this order; it may be empty."""
        chosen = copy.copy(self)
        chosen.frames = tuple(self.frames[i] for i in indices)
        chosen._notes = list(self._notes)
        return chosen


class SegmentationDataset(FrameDataset[SegmentationSample]):
    """Frames with class maps; ``classes`` are the names of the class ids, 0 first."""

    classes: tuple[str, ...] = ()

    def mask(self, frame: Frame) -> NDArray[np.int64]:
        """The class map of a frame, int64 [H, W]."""
        raise NotImplementedError

    def read(self, frame: Frame) -> SegmentationSample:
        """Picture and mask; raises DatasetError where they differ in size."""
        image, mask = self.image(frame), self.mask(frame)
        if mask.shape != image.shape[:2]:
            raise DatasetError(
                f"{frame.label} is {mask.shape[1]} x {mask.shape[0]}, its picture {frame.image} is "
                f"{image.shape[1]} x {image.shape[0]}; a mask must have the size of its picture"
            )
        return SegmentationSample(image, mask, frame.video, frame.name)


class KeypointDataset(FrameDataset[KeypointSample]):
    """Frames with key points, the label of each unless a subclass reads them otherwise; ``joints`` are their names."""

    joints: tuple[str, ...] = ()

    def read(self, frame: Frame) -> KeypointSample:
        return KeypointSample(self.image(frame), frame.label, frame.video, frame.name)
