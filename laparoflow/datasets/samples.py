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
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from typing_extensions import Self

IGNORE_INDEX = 255
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
ABSENT, OCCLUDED, VISIBLE = 0.0, 1.0, 2.0


class DatasetError(ValueError):
    """A data set on disk is not what its reader expects; the message names the file and what was expected."""


@dataclass(frozen=True)
class Frame:
    """One labelled frame, known by its files alone.

    Attributes:
        image: the picture's file.
        label: the label's file, or what the reader needs to make the label.
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

    Attributes:
        frames: in a fixed order (by video, then by time).
        name: the data set's name on the command line.
        video_hint: how one says which video a picture is from, for sets whose files need not tell; else "".
    """

    name: str = ""
    video_hint: str = ""

    def __init__(self, frames: Sequence[Frame]) -> None:
        if not frames:
            raise DatasetError(f"{self.name or type(self).__name__}: no labelled frame was found")
        self.frames = tuple(frames)
        self._notes: list[str] = []

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
        """Adds to the warnings of this selection of frames."""
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
    """Frames with class maps.

    Attributes:
        classes: name of each class id, 0 first.
    """

    classes: tuple[str, ...] = ()


class KeypointDataset(FrameDataset[KeypointSample]):
    """Frames with key points.

    Attributes:
        joints: name of each key point of an instrument.
    """

    joints: tuple[str, ...] = ()


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Reads a picture as RGB, uint8 [H, W, 3], upright as its EXIF orientation asks; of 16 bits the upper 8.

    `laparoflow prepare` reads pictures in the same way.

    Raises:
        DatasetError: the file is missing or is not a readable picture.
    """
    return _read(path, "RGB", upright=True)


def read_colours(path: Path) -> NDArray[np.uint8]:
    """Reads a mask as RGB, uint8 [H, W, 3], as it is stored: no EXIF orientation is applied to masks.

    Raises:
        DatasetError: the file is missing or is not a readable picture.
    """
    return _read(path, "RGB")


def read_ids(path: Path) -> NDArray[np.int64]:
    """Reads a mask of ids, int64 [H, W], as it is stored: one channel, a palette's indices, or equal channels.

    Alpha is left out.

    Raises:
        DatasetError: the file is missing or unreadable, or its colour channels differ.
    """
    pixels = _read(path, None).astype(np.int64)
    if pixels.ndim == 3:
        colours = pixels[..., :-1] if pixels.shape[-1] in (2, 4) else pixels
        if (colours != pixels[..., :1]).any():
            raise DatasetError(f"{path} is coloured; a mask of class ids has equal channels")
        pixels = pixels[..., 0]
    return pixels


def _read(path: Path, mode: str | None, upright: bool = False) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if mode is None:
                pixels = np.array(image)
            elif _has_16_bits(image):
                pixels = np.array(Image.fromarray((np.array(image) >> 8).astype(np.uint8)).convert(mode))
            else:
                pixels = np.array(image.convert(mode))
            if upright and (turned := _TURNED.get(_orientation(image))):
                pixels = np.ascontiguousarray(turned(pixels))
            return pixels
    except (OSError, SyntaxError) as error:  # Pillow reports some broken PNG files as SyntaxError
        raise DatasetError(f"cannot read the picture {path}: {error}") from error


_TURNED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
"""What each EXIF orientation asks for; 1 is upright already."""


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of a picture that has been loaded; 1 where its EXIF data are broken, as OpenCV takes it."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1


def _has_16_bits(image: Image.Image) -> bool:
    """Whether it is a grey picture of 16 bits, whose values Pillow would cut off at 255; mode "I" in older versions."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        DatasetError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {path} as JSON in UTF-8 or UTF-16: {error}") from error


def segmentation_sample(frame: Frame, image: NDArray[np.uint8], mask: NDArray[np.int64]) -> SegmentationSample:
    """The sample of a frame; raises DatasetError when picture and mask differ in size."""
    if mask.shape != image.shape[:2]:
        raise DatasetError(
            f"{frame.label} is {mask.shape[1]} x {mask.shape[0]}, its picture {frame.image} is "
            f"{image.shape[1]} x {image.shape[0]}; a mask must have the size of its picture"
        )
    return SegmentationSample(image, mask, frame.video, frame.name)


def require_folder(root: Path, reader: str) -> Path:
    """Returns `root` when it is a folder, else raises DatasetError naming the reader."""
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{reader}: root {root} is not a folder")
    return root
