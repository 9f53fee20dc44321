"""From one video to its shards: a stream of frames, a window as long as the largest gap, flow, what is kept.

Work goes on from the finished shards of an earlier run. What a shard contains depends on the source and the settings only,
never on where a run was interrupted or who works on it: several workers share a clip by taking the shards whose number
leaves a given remainder, and the one that finds all of them finished writes the clip's record.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from laparoflow.bounds import plain
from laparoflow.files import remove_leftovers, write_json
from laparoflow.video.cache import ClipRecord
from laparoflow.video.decode import DecodeReport, Frame, Source, VideoError
from laparoflow.video.flow import DISFlow, Flow, FlowEstimator, Image, Mask, consistency_mask
from laparoflow.video.motion import relative_motion, without_camera_motion
from laparoflow.video.pictures import write_overview
from laparoflow.video.plan import ClipPlan, read_plan
from laparoflow.video.precomputed import PrecomputedFlow
from laparoflow.video.quality import is_black, is_frozen, pair_problem
from laparoflow.video.settings import PrepareSettings
from laparoflow.video.shards import Shard, ShardRecord, damage, read_record, remove_shard, shard_name, write_index
from laparoflow.video.threads import one_opencv_thread


def build_estimator(settings: PrepareSettings, plan: ClipPlan) -> FlowEstimator:
    if settings.flow_method == "raft":
        from laparoflow.video.raft import RAFTFlow  # torch is loaded only where it is needed

        return RAFTFlow(str(settings.flow_weights))
    if settings.flow_method == "precomputed":
        return PrecomputedFlow(str(settings.flow_folder), plan.name, plan.crop, (plan.info.height, plan.info.width))
    return DISFlow(settings.dis_preset)


ClipResult = tuple[ClipRecord | None, list[str]]
"""A worker's part of a clip: its record, None while others have shards to finish, and what was damaged and built again."""


@dataclass(frozen=True)
class Task:
    """One worker's piece: shards of a clip whose number leaves the remainder part[0] when divided by part[1]."""

    cache: Path
    plan: ClipPlan
    settings: PrepareSettings
    part: tuple[int, int]


class ClipWriter:
    """Does a task; ``advance`` is called with the clip's name and 1 for every source frame that is done."""

    def __init__(self, task: Task, advance: Callable[[str, int], None]) -> None:
        plan, settings = task.plan, task.settings
        self.plan, self.settings, self.part, self.advance = plan, settings, task.part, advance
        self.cache, self.folder = task.cache, task.cache / "clips" / plan.name
        self.shard_frames = max(1, int(settings.shard_megabytes * 1e6 / settings.sample_bytes(plan.height, plan.width)))
        self.visible = plan.border.mask(plan.height, plan.width, plan.crop, settings.border_margin)
        self.estimator = build_estimator(settings, plan)
        self._pixels: dict[int, Image] = {}

    def run(self) -> ClipResult:
        """Write this part's missing and damaged shards, and the clip's record if the clip is then complete.

        What goes wrong leaves finished shards: a full disk, or a VideoError where no frame is read or their size changes.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remember_plan()
        done, rebuilt = self._finished_shards()
        report = DecodeReport()
        with one_opencv_thread():
            count = self._write_shards(report, done)
        if not report.frames:
            raise VideoError(f"no frames in {self.plan.source}: {report.problem or 'not one frame can be decoded'}")
        return self._finish(report, count), rebuilt

    def _mine(self, number: int) -> bool:
        return number % self.part[1] == self.part[0]

    def _remember_plan(self) -> None:
        """Shards of another plan (the source or how its border was found changed) are of no use: start again.

        Where the source lies is written down, to know what the clip is of, but makes no other plan.
        """
        path = self.folder / "plan.json"
        mine = plain(self.plan)
        if path.exists() and {**(read_plan(self.folder) or {}), "source": None} != {**mine, "source": None}:
            for file in self.folder.iterdir():
                file.unlink(missing_ok=True)
        if not path.exists():
            write_json(path, mine)

    def _finished_shards(self) -> tuple[set[int], list[str]]:
        """This part's complete shards of an earlier run, and what was wrong with those that had to be removed."""
        done, rebuilt = set(), []
        for path in sorted(self.folder.glob("[0-9]*.json")):
            number = int(path.stem)
            if not self._mine(number):
                continue
            record = read_record(self.folder, number)
            file = self.folder / shard_name(number)
            problem = damage(file, record.file, hashes=True) if record else f"{path} is damaged"
            if problem is None:
                done.add(number)
            else:
                rebuilt.append(problem)
                remove_shard(self.folder, number)
        return done, rebuilt

    def _write_shards(self, report: DecodeReport, done: set[int]) -> int:
        """Read the source to its end, write the shards that are ours and missing; returns the number of shards."""
        source = Source(Path(self.plan.source), self.settings)
        number, shard = 0, self._shard(0, done)
        for position, (frame, near) in enumerate(self._windows(source.frames(report))):
            if position // self.shard_frames > number:
                if shard is not None:
                    shard.write(self.folder)
                number = position // self.shard_frames
                shard = self._shard(number, done)
            if shard is not None:
                self._take(frame, near, shard)
        if report.frames and shard is not None:
            shard.write(self.folder)
        return number + 1

    def _shard(self, number: int, done: set[int]) -> Shard | None:
        """An empty shard, or None where it is another worker's or finished."""
        if not self._mine(number) or number in done:
            return None
        return Shard(number, self.settings.jpeg_quality, self.settings.stored_stride)

    def _windows(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, dict[int, Frame]]]:
        """Each sampled frame with the frames of its part around it, by index, as far as the gaps reach."""
        ahead, behind = max(0, *self.settings.gaps), max(0, *(-gap for gap in self.settings.gaps))
        rate = self.settings.frame_rate
        window: deque[Frame] = deque()
        slot = -np.inf  # the first timestamps may be negative
        place, ended = 0, False  # window[place] is the next frame to give
        while not ended or place < len(window):
            frame = None if ended else next(frames, None)
            ended = frame is None
            if frame is not None:
                window.append(frame)
            while place < len(window) and (ended or window[-1].index - window[place].index >= ahead):
                current = window[place]
                tick = current.index if rate is None else int(np.floor(current.time * rate + 1e-6))
                if tick > slot:
                    slot = tick
                    yield current, {other.index: other for other in window if other.part == current.part}
                place += 1
                while place and current.index - window[0].index >= behind:
                    self._pixels.pop(window.popleft().index, None)
                    place -= 1
                self.advance(self.plan.name, 1)

    def _image(self, frame: Frame) -> Image:
        """Cropped and resized pixels of a frame, uint8 [H, W, 3]."""
        if frame.index not in self._pixels:
            plan, pixels = self.plan, frame.rgb()
            if pixels.shape[:2] != (plan.info.height, plan.info.width):
                raise VideoError(
                    f"{plan.source}: frame {frame.index} is {pixels.shape[0]} x {pixels.shape[1]} pixels, expected "
                    f"{plan.info.height} x {plan.info.width}; the frame size must not change within a clip"
                )
            left, top, right, bottom = plan.crop
            mode = cv2.INTER_AREA if plan.width < right - left or plan.height < bottom - top else cv2.INTER_LINEAR
            resized = cv2.resize(pixels[top:bottom, left:right], (plan.width, plan.height), interpolation=mode)
            self._pixels[frame.index] = np.ascontiguousarray(resized, np.uint8)
        return self._pixels[frame.index]

    def _take(self, frame: Frame, near: dict[int, Frame], shard: Shard) -> None:
        """Decide about one sampled frame and add it, or the reason why not, to the shard."""
        settings, stack = self.settings, self.settings.gap_choice == "stack"
        image, reason = self._image(frame), "no target frame"
        targets = {gap: near[frame.index + gap] for gap in settings.gaps if frame.index + gap in near}
        if settings.drop_bad_frames and is_black(image, self.visible):
            return shard.exclude("black", frame.index)
        if stack and len(targets) < len(settings.gaps):
            return shard.exclude(reason, frame.index)
        found: list[tuple[float, int, Flow, Mask]] = []  # motion, gap, flow, valid
        for gap, target in targets.items():
            flow, valid, problem = self._flow(image, self._image(target), frame.index)
            motion = 0.0 if problem else relative_motion(flow, valid)
            reason = problem or "no motion"
            if problem is None and (stack or motion >= settings.min_motion):
                found.append((motion, gap, flow, valid))
            if (found and not stack) or (problem and stack) or problem == "scene cut":
                break
        if len(found) == (len(settings.gaps) if stack else 1):
            motion, gap = max(pair[:2] for pair in found)
            valid = np.all([pair[3] for pair in found], axis=0)
            if motion >= settings.min_motion and valid.any():
                flow = np.concatenate([pair[2] for pair in found])
                return shard.add(frame.index, frame.time, gap, motion, image, flow, valid)
            reason = "no motion" if motion < settings.min_motion else "no consistent flow"
        return shard.exclude(reason, frame.index)

    def _flow(self, source: Image, target: Image, index: int) -> tuple[Flow, Mask, str | None]:
        """Flow, where it is valid, and why the pair is of no use if it is not."""
        settings = self.settings
        if settings.drop_bad_frames:
            if is_black(target, self.visible):
                return np.empty(0, np.float32), self.visible, "black"
            if is_frozen(source, target, self.visible):
                return np.empty(0, np.float32), self.visible, "frozen"
        pair = self.estimator(source, target, index)
        valid = consistency_mask(pair, self.visible, settings.consistency_relative, settings.consistency_absolute)
        if not valid.any():
            return pair.forward, valid, "no consistent flow"
        if settings.drop_bad_frames and settings.flow_method != "precomputed":
            problem = pair_problem(source, target, pair.forward, valid, self.visible)
            if problem is not None:
                return pair.forward, valid, problem
        flow = pair.forward
        if settings.camera_motion != "keep":
            flow = without_camera_motion(flow, valid, settings.camera_motion)
        return flow, valid, None

    def _finish(self, report: DecodeReport, count: int) -> ClipRecord | None:
        """Write picture and record if every shard is there."""
        records = [read_record(self.folder, number) for number in range(count)]
        whole = [record for record in records if record is not None]
        if len(whole) < count:
            return None
        remove_leftovers(self.folder)
        record = self._clip_record(whole, report)
        write_overview(self.folder, record, self.cache / "pictures" / f"{self.plan.name}.png")
        write_json(self.folder / "clip.json", asdict(record))
        return record

    def _clip_record(self, records: list[ShardRecord], report: DecodeReport) -> ClipRecord:
        plan, excluded = self.plan, defaultdict[str, list[int]](list)
        for record in records:
            for reason, frames in record.excluded.items():
                excluded[reason] += frames
        kept = sum(len(record.samples) for record in records)
        return ClipRecord(
            **{name: getattr(plan, name) for name in ("name", "source", "fingerprint", "height", "width")},
            **{name: getattr(plan.info, name) for name in ("frame_rate", "decoder")},
            frames=kept,
            files=[record.file for record in records],
            index=write_index(self.folder, records),
            flow_channels=self.settings.flow_channels,
            flow_stride=self.settings.stored_stride,
            border=plain(asdict(plan.border)),
            report={**asdict(report), "kept": kept, "excluded": dict(excluded)},
        )
