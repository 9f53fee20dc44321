"""From one video to its shards: a stream of frames, a window as long as the largest gap, flow, what is kept.

Work goes on from the finished shards of an earlier run. What a shard contains depends on the source and the settings
only, never on where a run was interrupted.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from laparoflow.video.atomic import write_json
from laparoflow.video.border import Border, detect_border
from laparoflow.video.cache import ClipRecord
from laparoflow.video.decode import DecodeReport, Frame, Source, VideoError
from laparoflow.video.flow import DISFlow, Flow, FlowEstimator, Mask, consistency_mask, relative_motion
from laparoflow.video.settings import PrepareSettings
from laparoflow.video.shards import Sample, ShardRecord, content_hash, damage, read_record, remove_shard, write_shard

BORDER_FRAMES = 16


@dataclass(frozen=True)
class ClipPlan:
    """What is decided about a clip before its frames are read.

    Attributes:
        name: folder of the clip in the cache.
        source: the video or image folder.
        fingerprint: hash that recognises the source.
        border: visible part of the source frame.
        crop: box (left, top, right, bottom) of the source that is cached.
        height, width: size of the cached frames.
        frame_rate: frames per second of the source.
        expected: announced number of source frames, or None.
        decoder: what decodes the source.
    """

    name: str
    source: str
    fingerprint: str
    border: Border
    crop: tuple[int, int, int, int]
    height: int
    width: int
    frame_rate: float
    expected: int | None
    decoder: str

    @property
    def sample_bytes(self) -> int:
        """Bytes of one cached frame with flow and mask."""
        return self.height * (self.width * 7 + (self.width + 7) // 8)


def fingerprint(path: Path) -> str:
    """Hash of a source's sizes and of samples of its content; a folder's images count by name and size."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.iterdir() if p.is_file()):
            digest.update(f"{file.name}:{file.stat().st_size};".encode())
        return digest.hexdigest()
    size, block = path.stat().st_size, 1 << 20
    digest.update(str(size).encode())
    with open(path, "rb") as file:
        for start in (0, max(0, size // 2 - block // 2), max(0, size - block)):
            file.seek(start)
            digest.update(file.read(block))
    return digest.hexdigest()


def plan_clip(path: Path, name: str, settings: PrepareSettings) -> ClipPlan:
    """Open a source, look at its size and border, and decide what is cached.

    Raises:
        VideoError: if the source cannot be read or has no frame.
    """
    source = Source(path, settings.image_rate)
    info = source.info
    border = Border((0, 0, info.width, info.height))
    if settings.find_border:
        sampled = source.spread(BORDER_FRAMES)
        border = detect_border([frame for frame in sampled if frame.shape == sampled[0].shape])
    crop = border.box if settings.crop_border else (0, 0, info.width, info.height)
    height, width = settings.frame_size(crop[3] - crop[1], crop[2] - crop[0])
    return ClipPlan(
        name=name,
        source=str(path),
        fingerprint=fingerprint(path),
        border=border,
        crop=crop,
        height=height,
        width=width,
        frame_rate=info.frame_rate,
        expected=info.expected,
        decoder=info.decoder,
    )


@dataclass
class ClipResult:
    """How a clip went: its record, and the shards that were found damaged and built again."""

    record: ClipRecord
    rebuilt: list[str] = field(default_factory=list)


class ClipWriter:
    """Prepares one clip.

    Args:
        folder: the clip's folder in the cache.
        plan: what to do.
        settings: how to do it.
        advance: called with the number of source frames done since the last call.
    """

    def __init__(
        self, folder: Path, plan: ClipPlan, settings: PrepareSettings, advance: Callable[[int], None] = lambda n: None
    ) -> None:
        self.folder, self.plan, self.settings, self.advance = folder, plan, settings, advance
        self.shard_frames = max(1, int(settings.shard_megabytes * 1e6 / (plan.sample_bytes * self._per_frame)))
        self.visible = plan.border.mask(plan.height, plan.width, plan.crop, settings.border_margin)
        self.estimator: FlowEstimator = DISFlow(settings.dis_preset)
        self._pixels: dict[int, NDArray[np.uint8]] = {}

    @property
    def _per_frame(self) -> int:
        return len(self.settings.gaps) if self.settings.gap_choice == "all" else 1

    def run(self) -> ClipResult:
        """Write all shards that are missing or damaged, then the clip's record.

        Raises:
            DiskFullError: when the disk is full; finished shards stay.
            VideoError: if the source gave not one frame.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remember_plan()
        done, rebuilt = self._finished_shards()
        report = DecodeReport()
        source = Source(Path(self.plan.source), self.settings.image_rate)
        buffers = _Buffers()
        number, position = 0, 0
        current = ShardRecord(0)
        records: list[ShardRecord] = []

        def close() -> None:
            nonlocal current, buffers
            if current.number not in done:
                done[current.number] = write_shard(
                    self.folder, current, buffers.frames, buffers.flows, buffers.valids
                )
            records.append(done[current.number])
            buffers = _Buffers()
            current = ShardRecord(current.number + 1)

        for frame, later in self._windows(source.frames(report)):
            number = position // self.shard_frames
            if number > current.number:
                close()
            position += 1
            if number not in done:
                self._take(frame, later, current, buffers)
        if not report.frames:
            raise VideoError(f"no frames in {self.plan.source}: {report.problem or 'not one frame can be decoded'}")
        close()
        record = self._clip_record(records, report)
        write_json(self.folder / "clip.json", asdict(record))
        (self.folder / "plan.json").unlink(missing_ok=True)
        return ClipResult(record, rebuilt)

    def _remember_plan(self) -> None:
        """Refuse to go on with shards of another source."""
        path = self.folder / "plan.json"
        mine = json.loads(json.dumps({**asdict(self.plan), "source": None}))
        if path.exists():
            earlier = json.loads(path.read_text())
            if earlier != mine:
                for shard in self.folder.glob("*.json"):
                    shard.unlink()
        write_json(path, mine)

    def _finished_shards(self) -> tuple[dict[int, ShardRecord], list[str]]:
        """Complete shards of an earlier run; damaged ones and leftovers of a killed run are removed."""
        for leftover in self.folder.glob(".*.partial"):
            leftover.unlink(missing_ok=True)
        done, rebuilt = {}, []
        for path in sorted(self.folder.glob("[0-9]*.json")):
            number = int(path.stem)
            record = read_record(self.folder, number)
            problem = damage(self.folder, record, hashes=True) if record else f"{path} is damaged"
            if record is not None and problem is None:
                done[number] = record
            else:
                rebuilt.append(str(problem))
                remove_shard(self.folder, number)
        return done, rebuilt

    def _windows(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, dict[int, Frame]]]:
        """Each sampled frame with the frames after it, by index, as far as the largest gap."""
        reach = max(self.settings.gaps)
        window: deque[Frame] = deque()
        slot = -1

        def sampled(frame: Frame) -> bool:
            nonlocal slot
            if self.settings.frame_rate is None:
                return True
            place = int(np.floor(frame.time * self.settings.frame_rate + 1e-6))
            if place <= slot:
                return False
            slot = place
            return True

        def oldest() -> Iterator[tuple[Frame, dict[int, Frame]]]:
            frame = window.popleft()
            self.advance(1)
            if sampled(frame):
                yield frame, {other.index: other for other in window}
            self._pixels.pop(frame.index, None)

        for frame in frames:
            window.append(frame)
            if frame.index - window[0].index >= reach:
                yield from oldest()
        while window:
            yield from oldest()

    def _image(self, frame: Frame) -> NDArray[np.uint8]:
        """Cropped and resized pixels of a frame, uint8 [H, W, 3]."""
        if frame.index not in self._pixels:
            left, top, right, bottom = self.plan.crop
            pixels = frame.rgb()
            if pixels.shape[0] < bottom or pixels.shape[1] < right:
                raise VideoError(
                    f"{self.plan.source}: frame {frame.index} is {pixels.shape[0]} x {pixels.shape[1]} pixels, "
                    f"expected at least {bottom} x {right}; the frame size must not change within a clip"
                )
            pixels = pixels[top:bottom, left:right]
            size = (self.plan.width, self.plan.height)
            smaller = size[0] < pixels.shape[1] or size[1] < pixels.shape[0]
            if (pixels.shape[1], pixels.shape[0]) != size:
                pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
            self._pixels[frame.index] = np.ascontiguousarray(pixels, np.uint8)
        return self._pixels[frame.index]

    def _take(self, frame: Frame, later: dict[int, Frame], shard: ShardRecord, buffers: _Buffers) -> None:
        """Decide about one sampled frame and add it, or the reason why not, to the shard."""
        kept, reason = 0, "no target frame"
        for gap in self.settings.gaps:
            target = later.get(frame.index + gap)
            if target is None:
                continue
            flow, valid = self._flow(frame, target)
            motion = relative_motion(flow, valid)
            if not valid.any():
                reason = "no consistent flow"
                continue
            if motion < self.settings.min_motion:
                reason = "no motion"
                continue
            buffers.add(self._image(frame), flow, valid)
            shard.samples.append(Sample(frame.index, round(frame.time, 6), gap, round(motion, 4)))
            kept += 1
            if self.settings.gap_choice == "first_moving":
                break
        if not kept:
            shard.excluded.setdefault(reason, []).append(frame.index)

    def _flow(self, frame: Frame, target: Frame) -> tuple[Flow, Mask]:
        forward, backward = self.estimator(self._image(frame), self._image(target))
        settings = self.settings
        valid = consistency_mask(
            forward, backward, self.visible, settings.consistency_relative, settings.consistency_absolute
        )
        return forward, valid

    def _clip_record(self, records: list[ShardRecord], report: DecodeReport) -> ClipRecord:
        plan = self.plan
        excluded: dict[str, list[int]] = {}
        for record in records:
            for reason, frames in record.excluded.items():
                excluded.setdefault(reason, []).extend(frames)
        summary: dict[str, Any] = {
            **asdict(report),
            "kept": sum(len(record.samples) for record in records),
            "excluded": excluded,
        }
        return ClipRecord(
            name=plan.name,
            source=plan.source,
            fingerprint=plan.fingerprint,
            frames=summary["kept"],
            height=plan.height,
            width=plan.width,
            frame_rate=plan.frame_rate,
            shards=len(records),
            content_hash=content_hash(records),
            decoder=plan.decoder,
            border={"box": list(plan.border.box), "circle": plan.border.circle and list(plan.border.circle)},
            report=summary,
        )


class _Buffers:
    """Samples of the shard that is being filled."""

    def __init__(self) -> None:
        self.frames: list[NDArray[np.uint8]] = []
        self.flows: list[Flow] = []
        self.valids: list[Mask] = []

    def add(self, frame: NDArray[np.uint8], flow: Flow, valid: Mask) -> None:
        self.frames.append(frame)
        self.flows.append(flow)
        self.valids.append(valid)
