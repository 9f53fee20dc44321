"""Frames from video files (PyAV) and from folders of images (OpenCV), with a report of what could not be read.

A frame's index is its place in the file, also when frames before it are damaged: a packet that cannot be
decoded uses up an index, so that the distance between two frames is never mistaken. Its time always grows: where the
file's timestamps start again (joined chapters, a recorder's reset) it goes on from the last frame. Pictures stand
upright: a rotation by quarter turns that the file asks for is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from laparoflow.video.sources import VideoError, images_in, shown
from laparoflow.video.times import Clock, believed_stamps

Image = NDArray[np.uint8]


@contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Turn what PyAV raises about a file, whatever its kind, into a VideoError with the file's name."""
    try:
        yield
    except VideoError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"cannot {what} {shown(path)}: {getattr(error, 'strerror', None) or error}") from error


@dataclass
class DecodeReport:
    """What was read.

    Attributes:
        frames: frames that were decoded.
        expected: frames that the file announces, None if it does not.
        damaged: indices of frames that could not be decoded.
        restarts: indices of frames at which the file's timestamps start again.
        problem: why reading ended early, or that timestamps restart, or None.
    """

    frames: int = 0
    expected: int | None = None
    damaged: list[int] = field(default_factory=list)
    restarts: list[int] = field(default_factory=list)
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
    """A decoded frame; pixels are converted when they are first asked for.

    Attributes:
        index: place in the source.
        time: seconds, larger than that of the frame before.
        raw: what was decoded, or the image file.
        source: the video or image folder.
        part: number of times that timestamps started again up to here; frames of different parts are no neighbours.
    """

    index: int
    time: float
    raw: av.VideoFrame | Path
    source: Path
    part: int = 0

    def rgb(self) -> Image:
        """Pixels uint8 [H, W, 3].

        Raises:
            VideoError: if they cannot be converted or the image cannot be read.
        """
        if isinstance(self.raw, Path):
            return _read_image(self.raw)
        with _named(self.source, f"convert frame {self.index} of"):
            return _rgb(self.raw)


def _quarter_turns(raw: av.VideoFrame) -> int:
    """Quarter turns counterclockwise that bring a frame upright; 0 for a rotation by anything else."""
    turns, rest = divmod(getattr(raw, "rotation", 0), 90)  # the first releases of PyAV 14 do not tell
    return 0 if rest else turns % 4


def _rgb(raw: av.VideoFrame) -> Image:
    """Upright pixels uint8 [H, W, 3]."""
    return np.ascontiguousarray(np.rot90(raw.to_ndarray(format="rgb24"), _quarter_turns(raw)), np.uint8)


def _announced(container: av.container.InputContainer, rate: float) -> tuple[int | None, int]:
    """Number of frames that a file announces and by how many it may be wrong; the duration is less exact."""
    stream = container.streams.video[0]
    if stream.frames:
        return stream.frames, 0
    if container.duration:
        frames = round(container.duration / av.time_base * rate)
        return frames, max(2, frames // 50)
    return None, 0


def _read_image(path: Path) -> Image:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise VideoError(f"cannot read image {shown(path)}: {error.strerror}") from error
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if pixels is None:
        raise VideoError(f"cannot read image {shown(path)}: not an image or damaged")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _lacks_index(path: Path) -> bool:
    """Whether a file is an MP4 or MOV, by its first box, without the box that says where its frames are."""
    with open(path, "rb") as file:
        place, first = 0, b""
        while len(head := file.read(16)) >= 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            first = first or kind
            if first not in (b"ftyp", b"wide", b"mdat", b"free", b"skip") or kind in (b"moov", b"moof"):
                return False
            size = int.from_bytes(head[8:16], "big") if size == 1 else size
            if size < 8:
                break
            file.seek(place := place + size)
    return bool(first)


class Source:
    """One video file or image folder.

    Args:
        path: file or folder.
        image_rate: frame rate given to image sequences.
        pattern: which pictures of a folder are its frames, see ``images_in``.

    Raises:
        VideoError: if it cannot be opened, has no video stream or not a single frame.
    """

    def __init__(self, path: Path, image_rate: float = 25.0, pattern: str | None = None) -> None:
        self.path = path
        self.image_rate = image_rate
        self.images = images_in(path, pattern) if path.is_dir() else []
        self.info = self._image_info() if path.is_dir() else self._video_info()

    def _image_info(self) -> SourceInfo:
        if not self.images:
            raise VideoError(f"no frames in {shown(self.path)}: the folder holds no images")
        height, width = _read_image(self.images[0]).shape[:2]
        return SourceInfo(height, width, self.image_rate, len(self.images), f"opencv {cv2.__version__}")

    def _open(self) -> av.container.InputContainer:
        with _named(self.path, "open video"):
            if _lacks_index(self.path):
                raise VideoError(
                    f"cannot open video {shown(self.path)}: its index (the moov atom) is missing, as where a recording was "
                    "cut off; copy it again, or repair it with a tool such as untrunc"
                )
            container = av.open(str(self.path), metadata_errors="replace")
        if not container.streams.video:
            container.close()
            raise VideoError(f"cannot read {shown(self.path)}: it has no video stream")
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
            raise VideoError(f"no frames in {shown(self.path)}: not one frame can be decoded")
        height, width = first.raw.height, first.raw.width
        if _quarter_turns(first.raw) % 2:
            height, width = width, height
        return SourceInfo(height, width, rate, expected, f"PyAV {av.__version__} {codec}")

    def frames(self, report: DecodeReport | None = None) -> Iterator[Frame]:
        """Decode from the first frame on; what is damaged on the way is written into ``report``, not raised.

        Raises:
            VideoError: if the file cannot be opened, or what PyAV says of it is no damage that it knows.
        """
        report = report if report is not None else DecodeReport()
        if self.images:
            report.expected = len(self.images)
            for index, path in enumerate(self.images):
                report.frames += 1
                yield Frame(index, index / self.image_rate, path, self.path)
            return
        slack = 0
        with _named(self.path, "decode video"), self._open() as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            report.expected, slack = _announced(container, rate)
            clock = Clock(1 / rate)
            for index, raw, stamp in believed_stamps(self._decoded(container, report)):
                time, again = clock(index, stamp)
                if again:
                    report.restarts.append(index)
                report.frames += 1
                yield Frame(index, time, raw, self.path, len(report.restarts))
        read = report.frames + len(report.damaged)
        if report.problem is None and report.expected and read < report.expected - slack:
            report.problem = f"truncated: {report.frames} of {report.expected} announced frames could be read"
        if report.restarts:
            places = ", ".join(str(place) for place in report.restarts[:5]) + (", ..." if len(report.restarts) > 5 else "")
            text = f"timestamps restart at frame {places}; time goes on there, and no pair of frames crosses it"
            report.problem = f"{report.problem}; {text}" if report.problem else text

    def _decoded(self, container: av.container.InputContainer, report: DecodeReport) -> Iterator[tuple[int, av.VideoFrame]]:
        """Whole frames with their place in the file; what is damaged uses up a place and goes into the report."""
        index = 0
        packets = container.demux(container.streams.video[0])
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                report.problem = f"reading stopped after frame {index}: {error.strerror or error}"
                return
            try:
                decoded = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                report.damaged.append(index)
                index += 1
                continue
            for raw in decoded:
                if raw.is_corrupt:
                    report.damaged.append(index)
                else:
                    yield index, raw
                index += 1

    def spread(self, count: int) -> list[Image]:
        """Up to ``count`` frames spread over the source (or its first ones where it cannot be searched)."""
        if self.images:
            step = max(1, len(self.images) // count)
            return [_read_image(path) for path in self.images[::step][:count]]
        result: list[Image] = []
        with _named(self.path, "decode video"), self._open() as container:
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
