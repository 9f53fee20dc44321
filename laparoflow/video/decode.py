"""Frames from video files (PyAV) and from folders of images (OpenCV), with a report of what could not be read.

A frame's index is its place in the file, also when frames before it are damaged: a packet that cannot be
decoded uses up an index, so that the distance between two frames is never mistaken. Its time always grows: where the
file's timestamps start again (joined chapters, a recorder's reset) it goes on from the last frame. Pictures stand
upright: a rotation by quarter turns that the file asks for is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from laparoflow.files import read_picture, shown
from laparoflow.video.flow import Image
from laparoflow.video.interlaced import deinterlaced, looks_interlaced
from laparoflow.video.settings import PrepareSettings
from laparoflow.video.sources import VideoError, images_in
from laparoflow.video.times import LOOK_AHEAD, Clock, believed_stamps

# names and comments that are not UTF-8: PyAV 19 replaces what it cannot read by itself and has no such argument
TEXT: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}


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
    """What was read: the frames that were decoded and that the file announces, and indices of those that are damaged.

    ``restarts`` are indices of frames at which the file's timestamps start again, ``notes`` what was decided about the file
    (which of several video tracks, square pixels, deinterlacing), ``problem`` why reading ended early.
    """

    frames: int = 0
    expected: int | None = None
    damaged: list[int] = field(default_factory=list)
    restarts: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
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
    """A decoded frame: its place in the source, its time in seconds, what was decoded or the pixels of a picture.

    Attributes:
        part: number of times up to here that timestamps started again, the frame size changed or a picture was damaged;
            frames of different parts are no neighbours.
        size: (height, width) of the decoded frame in square pixels, before a rotation.
    """

    index: int
    time: float
    raw: av.VideoFrame | Image
    source: Path
    part: int = 0
    size: tuple[int, int] | None = None

    def rgb(self) -> Image:
        """Pixels uint8 [H, W, 3]; a VideoError where they cannot be converted."""
        if isinstance(self.raw, np.ndarray):
            return self.raw
        with _named(self.source, f"convert frame {self.index} of"):
            return _rgb(self.raw, self.size)


def _quarter_turns(raw: av.VideoFrame) -> int:
    """Quarter turns counterclockwise that bring a frame upright; 0 for a rotation by anything else."""
    turns, rest = divmod(raw.rotation, 90)
    return 0 if rest else turns % 4


def _rgb(raw: av.VideoFrame, size: tuple[int, int] | None) -> Image:
    """Upright pixels uint8 [H, W, 3] of a frame that is scaled to ``size`` (height, width) before it is turned."""
    height, width = size or (raw.height, raw.width)
    pixels = raw.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(pixels, _quarter_turns(raw)), np.uint8)


def _rate(stream: av.VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _rank(stream: av.VideoStream) -> tuple[bool, float, bool]:
    """Order of video tracks: a cover picture comes last, the most pixels a second first, of equals the default one."""
    kind = str(stream.disposition).lower()
    still = any(word in kind for word in ("attached", "thumbnail", "still"))
    return not still, stream.width * stream.height * _rate(stream), "default" in kind


def _announced(container: av.container.InputContainer, stream: av.VideoStream, rate: float) -> tuple[int | None, int]:
    """Number of frames that a file announces and by how many it may be wrong; the duration is less exact."""
    if stream.frames:
        return stream.frames, 0
    if container.duration:
        frames = round(container.duration / av.time_base * rate)
        return frames, max(2, frames // 50)
    return None, 0


def _is_mp4(path: Path) -> bool:
    """Whether a file is an MP4 or MOV, by its first box."""
    with open(path, "rb") as file:
        return file.read(8)[4:] in (b"ftyp", b"wide", b"mdat", b"free", b"skip")


class Source:
    """One video file or image folder; for the options see ``PrepareSettings``. A VideoError where it has not one frame."""

    def __init__(self, path: Path, settings: PrepareSettings | None = None) -> None:
        self.path, self.settings = path, settings or PrepareSettings()
        self.notes: list[str] = []
        self.size: tuple[int, int] | None = None
        self.images = images_in(path, self.settings.pattern) if path.is_dir() else []
        self.info = self._image_info() if path.is_dir() else self._video_info()

    def _image_info(self) -> SourceInfo:
        if not self.images:
            raise VideoError(f"no frames in {shown(self.path)}: the folder holds no images")
        shapes, problems = [], []
        for path in self.images[:: max(1, len(self.images) // 8)]:
            try:
                shapes.append(read_picture(path).shape[:2])
            except ValueError as error:
                problems.append(str(error))
        if not shapes:
            raise VideoError(f"no frames in {shown(self.path)}: {problems[0]}")
        height, width = max(shapes, key=shapes.count)  # one odd picture does not decide
        return SourceInfo(height, width, self.settings.image_rate, len(self.images), f"opencv {cv2.__version__}")

    def _open(self) -> av.container.InputContainer:
        with _named(self.path, "open video"):
            try:
                container = av.open(str(self.path), **TEXT)
            except av.error.InvalidDataError as error:
                if not _is_mp4(self.path):
                    raise
                raise VideoError(
                    f"cannot open video {shown(self.path)}: its index (the moov atom) is missing or damaged, as where a "
                    "recording was cut off; copy it again, or repair it with a tool such as untrunc"
                ) from error
        if not container.streams.video:
            container.close()
            raise VideoError(f"cannot read {shown(self.path)}: it has no video stream")
        for stream in container.streams.video:
            stream.thread_count = 1
        return container

    def _stream(self, container: av.container.InputContainer) -> av.VideoStream:
        """The video track that is read."""
        streams = container.streams.video
        best = max(range(len(streams)), key=lambda place: _rank(streams[place]))
        place = best if self.settings.video_stream is None else self.settings.video_stream
        if not 0 <= place < len(streams):
            raise VideoError(f"video_stream must be in [0, {len(streams)}) for {shown(self.path)}, got {place}")
        stream = streams[place]
        if len(streams) > 1 and not self.notes:
            self.notes.append(
                f"video track {place} of {len(streams)} is read ({stream.width} x {stream.height} pixels, {_rate(stream):g} "
                "frames per second); video_stream names another"
            )
        return stream

    def _video_info(self) -> SourceInfo:
        with _named(self.path, "decode video"), self._open() as container:
            stream = self._stream(container)
            rate = _rate(stream)
            expected, _ = _announced(container, stream, rate)
            codec, aspect = stream.codec_context.name, float(stream.sample_aspect_ratio or 1)
            first = [raw for _, raw in islice(self._decoded(container, stream, DecodeReport()), LOOK_AHEAD)]
        if not first:
            raise VideoError(f"no frames in {shown(self.path)}: not one frame can be decoded")
        height, width = first[0].height, max(1, round(first[0].width * aspect))
        self.size = height, width
        if width != first[0].width:
            self.notes.append(f"pixels are not square: {first[0].width} x {height} is read as {width} x {height}")
        flagged = any(raw.interlaced_frame for raw in first)
        wanted = self.settings.deinterlace
        if flagged and wanted == "never":
            self.notes.append("interlaced, and left as it is")
        self.deinterlaced = wanted == "always" or (flagged and wanted == "flagged")
        if self.deinterlaced:
            self.notes.append(f"{'interlaced, ' if flagged else ''}deinterlaced by bwdif")
        elif not flagged and looks_interlaced(first[::4]):
            self.notes.append("looks interlaced, though the file does not say so; --deinterlace always mends it")
        if _quarter_turns(first[0]) % 2:
            height, width = width, height
        return SourceInfo(height, width, rate, expected, f"PyAV {av.__version__} {codec}")

    def frames(self, report: DecodeReport | None = None) -> Iterator[Frame]:
        """Decode from the first frame on; what is damaged on the way is written into ``report``, not raised."""
        report = report if report is not None else DecodeReport()
        report.notes = list(self.notes)
        if self.images:
            yield from self._image_frames(report, self.images)
            return
        slack, changes, last = 0, 0, None
        with _named(self.path, "decode video"), self._open() as container:
            stream = self._stream(container)
            rate = _rate(stream)
            report.expected, slack = _announced(container, stream, rate)
            clock = Clock(1 / rate)
            stamped = believed_stamps(self._decoded(container, stream, report))
            for index, raw, stamp in deinterlaced(stamped) if self.deinterlaced else stamped:
                time, again = clock(index, stamp)
                if again:
                    report.restarts.append(index)
                size = raw.width, raw.height
                if last not in (None, size):
                    changes += 1
                    report.notes.append(f"the frame size changes to {size[0]} x {size[1]} at frame {index}")
                last = size
                if not self._fits(raw, stream):
                    report.damaged.append(index)
                    continue
                report.frames += 1
                yield Frame(index, time, raw, self.path, len(report.restarts) + changes, self.size)
        problems = [report.problem] if report.problem else []
        if not problems and report.expected and report.frames + len(report.damaged) < report.expected - slack:
            problems.append(f"truncated: {report.frames} of {report.expected} announced frames could be read")
        if report.restarts:
            places = ", ".join(str(place) for place in report.restarts[:5]) + (", ..." if len(report.restarts) > 5 else "")
            problems.append(f"timestamps restart at frame {places}; time goes on there, and no pair of frames crosses it")
        report.problem = "; ".join(problems) or None

    def _image_frames(self, report: DecodeReport, images: Sequence[Path]) -> Iterator[Frame]:
        """Pictures; one that cannot be read or has another size is damaged, and begins a new part."""
        report.expected = len(images)
        for index, path in enumerate(images):
            try:
                pixels = read_picture(path)
                if pixels.shape[:2] != (self.info.height, self.info.width):
                    size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels, not {self.info.width} x {self.info.height}"
                    raise ValueError(f"left out {shown(path)}: it has {size}")
            except ValueError as error:
                report.notes.append(str(error))
                report.damaged.append(index)
                continue
            report.frames += 1
            yield Frame(index, index / self.settings.image_rate, pixels, self.path, len(report.damaged))

    def _fits(self, raw: av.VideoFrame, stream: av.VideoStream) -> bool:
        """Whether a frame, whatever its size, shows the same section as the first one: it has the same shape."""
        height, width = self.size or (raw.height, raw.width)
        return abs(raw.width * float(stream.sample_aspect_ratio or 1) / raw.height / (width / height) - 1) < 0.02

    def _decoded(
        self, container: av.container.InputContainer, stream: av.VideoStream, report: DecodeReport
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Whole frames with their place in the file; what is damaged uses up a place and goes into the report.

        Frames that an edit list cuts away are decoded for others' sake; they are not shown and not expected.
        """
        index = 0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                report.problem = f"reading stopped after frame {index}: {error.strerror or error}"
                return
            if packet is None:
                return
            if packet.is_discard and report.expected:
                report.expected -= 1
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
            frames = self._image_frames(DecodeReport(), self.images[::step][:count])
            return [frame.rgb() for frame in frames] or [next(self.frames()).rgb()]
        result: list[Image] = []
        with _named(self.path, "decode video"), self._open() as container:
            stream = self._stream(container)
            duration = container.duration or 0
            for number in range(count if duration else 0):
                try:
                    container.seek(duration * number // count, backward=True)
                    raw = next(container.decode(stream), None)
                except (av.error.FFmpegError, OSError):
                    continue
                if raw is not None and not raw.is_corrupt and self._fits(raw, stream):
                    result.append(_rgb(raw, self.size))
        return result or [frame.rgb() for frame in islice(self.frames(), count)]
