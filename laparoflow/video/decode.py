"""Frames from video files (PyAV) and from folders of images (OpenCV), with a report of what could not be read.

A frame's index is its place in the file, also when frames before it are damaged: a packet that cannot be
decoded uses up an index, so that the distance between two frames is never mistaken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".wmv")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

Image = NDArray[np.uint8]


class VideoError(ValueError):
    """A video or image sequence that cannot be read; the message names the file and what is wrong."""


@dataclass
class DecodeReport:
    """What was read.

    Attributes:
        frames: frames that were decoded.
        expected: frames that the file announces, None if it does not.
        damaged: indices of frames that could not be decoded.
        problem: why reading ended early, or None.
    """

    frames: int = 0
    expected: int | None = None
    damaged: list[int] = field(default_factory=list)
    problem: str | None = None


@dataclass(frozen=True)
class SourceInfo:
    """Size, rate (frames per second) and decoder of a source."""

    height: int
    width: int
    frame_rate: float
    expected: int | None
    decoder: str


@dataclass
class Frame:
    """A decoded frame; pixels are converted when they are first asked for."""

    index: int
    time: float
    raw: av.VideoFrame | Path

    def rgb(self) -> Image:
        """Pixels uint8 [H, W, 3]."""
        if isinstance(self.raw, Path):
            return _read_image(self.raw)
        return _rgb(self.raw)


def _rgb(raw: av.VideoFrame) -> Image:
    return np.asarray(raw.to_ndarray(format="rgb24"), np.uint8)


def _announced(container: av.container.InputContainer, rate: float) -> tuple[int | None, int]:
    """Number of frames that a file announces and by how many it may be wrong; the duration is less exact."""
    stream = container.streams.video[0]
    if stream.frames:
        return stream.frames, 0
    if container.duration:
        frames = round(container.duration / av.time_base * rate)
        return frames, max(2, frames // 50)
    return None, 0


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort key by which frame_10 comes after frame_9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name) if part]


def _read_image(path: Path) -> Image:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise VideoError(f"cannot read image {path}: {error.strerror}") from error
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if pixels is None:
        raise VideoError(f"cannot read image {path}: not an image or damaged")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def images_in(folder: Path) -> list[Path]:
    """The images directly in a folder, in natural order."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()), key=_natural)


def find_sources(inputs: list[Path]) -> list[Path]:
    """Videos and image folders named by the inputs.

    A file is taken as a video. A folder gives every video below it; if there is none, every folder below it
    (itself included) that holds images is an image sequence.

    Raises:
        VideoError: for an input that does not exist or holds neither videos nor images.
    """
    sources: list[Path] = []
    for path in inputs:
        if path.is_file():
            sources.append(path)
            continue
        if not path.is_dir():
            raise VideoError(f"input {path} does not exist")
        below = sorted(path.rglob("*"))
        found = [p for p in below if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
        found = found or [p for p in [path, *below] if p.is_dir() and images_in(p)]
        if not found:
            raise VideoError(f"input {path} holds no video ({', '.join(VIDEO_SUFFIXES)}) and no image sequence")
        sources.extend(found)
    unique: dict[Path, Path] = {}
    for source in sources:  # a link keeps its own name, which may be the only telling one
        unique.setdefault(source.resolve(), source.absolute())
    return list(unique.values())


class Source:
    """One video file or image folder.

    Args:
        path: file or folder.
        image_rate: frame rate given to image sequences.

    Raises:
        VideoError: if it cannot be opened, has no video stream or not a single frame.
    """

    def __init__(self, path: Path, image_rate: float = 25.0) -> None:
        self.path = path
        self.image_rate = image_rate
        self.images = images_in(path) if path.is_dir() else []
        self.info = self._image_info() if path.is_dir() else self._video_info()

    def _image_info(self) -> SourceInfo:
        if not self.images:
            raise VideoError(f"no frames in {self.path}: the folder holds no images")
        height, width = _read_image(self.images[0]).shape[:2]
        return SourceInfo(height, width, self.image_rate, len(self.images), f"opencv {cv2.__version__}")

    def _open(self) -> av.container.InputContainer:
        try:
            container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(f"cannot open video {self.path}: {error.strerror or error}") from error
        if not container.streams.video:
            container.close()
            raise VideoError(f"cannot read {self.path}: it has no video stream")
        container.streams.video[0].thread_count = 1
        return container

    def _video_info(self) -> SourceInfo:
        with self._open() as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            expected, _ = _announced(container, rate)
            codec = stream.codec_context.name
        first = next(self.frames(), None)
        if first is None or isinstance(first.raw, Path):
            raise VideoError(f"no frames in {self.path}: not one frame can be decoded")
        return SourceInfo(first.raw.height, first.raw.width, rate, expected, f"PyAV {av.__version__} {codec}")

    def frames(self, report: DecodeReport | None = None) -> Iterator[Frame]:
        """Decode from the first frame on; what goes wrong on the way is written into ``report``, not raised."""
        report = report if report is not None else DecodeReport()
        if self.images:
            report.expected = len(self.images)
            for index, path in enumerate(self.images):
                report.frames += 1
                yield Frame(index, index / self.image_rate, path)
            return
        with self._open() as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            report.expected, slack = _announced(container, rate)
            index = 0
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except av.error.FFmpegError as error:
                    report.problem = f"reading stopped after frame {index}: {error.strerror or error}"
                    break
                try:
                    decoded = packet.decode()
                except av.error.EOFError:
                    break
                except av.error.FFmpegError:
                    report.damaged.append(index)
                    index += 1
                    continue
                for raw in decoded:
                    if raw.is_corrupt:
                        report.damaged.append(index)
                    else:
                        report.frames += 1
                        yield Frame(index, float(raw.time) if raw.time is not None else index / rate, raw)
                    index += 1
        if report.problem is None and report.expected and index < report.expected - slack:
            report.problem = f"truncated: {report.frames} of {report.expected} announced frames could be read"

    def spread(self, count: int) -> list[Image]:
        """Up to ``count`` frames spread over the source (or its first ones where it cannot be searched)."""
        if self.images:
            step = max(1, len(self.images) // count)
            return [_read_image(path) for path in self.images[::step][:count]]
        result: list[Image] = []
        with self._open() as container:
            stream = container.streams.video[0]
            duration = container.duration or 0
            for number in range(count if duration else 0):
                try:
                    container.seek(duration * number // count, backward=True)
                    raw = next(container.decode(stream), None)
                except (av.error.FFmpegError, OSError):
                    continue
                if raw is not None and not raw.is_corrupt:
                    result.append(_rgb(raw))
        if not result:
            for frame in self.frames():
                result.append(frame.rgb())
                if len(result) == count:
                    break
        return result
