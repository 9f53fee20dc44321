"""Videos to a cache.

All sources are opened before any work starts, so that an unreadable file is known at once. Finished clips and
finished shards of an earlier run are kept; damaged ones are built again. Nothing is ever half written. Under
torchrun or srun every rank runs the same command and does its share.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from laparoflow.bounds import plain
from laparoflow.files import DiskFullError, locked, remove_leftovers, write_json
from laparoflow.machine import cores
from laparoflow.progress import counted
from laparoflow.progress import progress as show_progress
from laparoflow.video.cache import FORMAT, VERSION, CacheError, ClipRecord, find_damage, read_clip, read_header
from laparoflow.video.clip import Task
from laparoflow.video.decode import VideoError
from laparoflow.video.names import identify
from laparoflow.video.parallel import rank_and_world_size, run_tasks, split_tasks, units_of
from laparoflow.video.plan import ClipPlan, plan_clip
from laparoflow.video.settings import PrepareSettings
from laparoflow.video.shards import sha256
from laparoflow.video.sources import find_sources, shown

FIRST_FRAMES = 500
"""Source frames after which the time of the whole is estimated."""

LOCK = ".lock"  # held while a run names its clips or writes its report


@dataclass
class PrepareReport:
    """What a run of ``prepare`` did on this rank.

    Attributes:
        clips: records of the clips that were finished when this run ended and to which it had to contribute.
        prepared, kept: names of the clips that this run finished, and that an earlier run had.
        rebuilt: damaged shards that were built again, with what was wrong.
        unreadable, passed_over: skipped sources with the reason, and by the reason files of the folders that are not read.
        duplicates: sources whose content another source has too, with the clip that holds it.
    """

    cache: str
    rank: int = 0
    world_size: int = 1
    clips: list[ClipRecord] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Cached frames over all clips."""
        return sum(clip.frames for clip in self.clips)

    @property
    def problems(self) -> dict[str, str]:
        """Clips whose source could not be read to its end, or whose timestamps restart, with what happened."""
        return {clip.name: clip.report["problem"] for clip in self.clips if clip.report.get("problem")}

    @property
    def notes(self) -> dict[str, list[str]]:
        """What was decided about clips on the way: the video track, square pixels, deinterlacing, damaged pictures."""
        return {clip.name: clip.report["notes"] for clip in self.clips if clip.report.get("notes")}

    @property
    def excluded(self) -> dict[str, int]:
        """Number of source frames left out, by reason."""
        counts: Counter[str] = Counter()
        for clip in self.clips:
            counts.update({reason: len(frames) for reason, frames in clip.report["excluded"].items()})
        return dict(counts)

    def as_dict(self) -> dict[str, Any]:
        summary = {"frames": self.frames, "excluded": self.excluded, "problems": self.problems, "notes": self.notes}
        return {**summary, **asdict(self)}


def _identity(settings: PrepareSettings) -> dict[str, Any]:
    """The settings as they are recorded: a weights file counts by its content, not by its path."""
    recorded = plain(settings)
    if settings.flow_weights is not None:
        weights = Path(settings.flow_weights)
        if not weights.is_file():
            raise ValueError(f"flow_weights {weights} does not exist")
        recorded["flow_weights"] = f"sha256:{sha256(weights)}"
    return recorded


def _check_folder(out: Path, identity: dict[str, Any]) -> None:
    """Check that ``out`` may become, or is, a cache with these settings."""
    if out.exists() and not out.is_dir():
        raise CacheError(f"out must be a folder, got the file {out}")
    if not out.exists() or all(path.name.endswith(".partial") or path.name == LOCK for path in out.iterdir()):
        return
    if not (out / "cache.json").exists():
        raise CacheError(f"out must be a new or empty folder or a cache, got {out}, which holds other files")
    have = read_header(out)["settings"]
    if different := sorted(key for key in {*have, *identity} if have.get(key) != identity.get(key)):
        listed = ", ".join(f"{key} is {have.get(key)!r}, asked {identity.get(key)!r}" for key in different)
        raise CacheError(f"{out} was prepared with other settings ({listed}); choose another folder for these")


def _check_space(out: Path, plans: list[ClipPlan], settings: PrepareSettings) -> str:
    """What the work will take, in a line; refuses what cannot fit on the disk."""
    needed = frames = 0.0
    for plan in plans:
        count = float(plan.info.expected or 0)
        if settings.frame_rate is not None:
            count *= min(1.0, settings.frame_rate / plan.info.frame_rate)
        written = sum(file.stat().st_size for file in (out / "clips" / plan.name).glob("*.bin"))
        frames += count
        needed += max(0.0, count * settings.sample_bytes(plan.height, plan.width) - written)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise DiskFullError(
            f"not enough space on the disk of {out}: about {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; "
            "lower short_side, frame_rate or jpeg_quality, or choose another disk"
        )
    return f"{counted(len(plans), 'clip')}, about {frames:.0f} frames, {needed / 1e9:.2f} GB ({free / 1e9:.0f} GB are free)"


def _claim(out: Path, plans: dict[str, ClipPlan], names: dict[Path, str]) -> dict[str, ClipPlan]:
    """Give clips the names that are free now, and write down whose they are: another run may have begun since."""
    claimed = [replace(plan, name=names.get(Path(plan.source), plan.name)) for plan in plans.values()]
    for plan in claimed:
        folder = out / "clips" / plan.name
        if not (folder / "plan.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "plan.json", asdict(plan))
    return {plan.name: plan for plan in claimed}


def _write_report(out: Path, report: PrepareReport, inputs: list[Path]) -> None:
    """Write what this run did, after what every run before it or beside it did, in short, under ``writers``."""
    path = out / ("report.json" if report.world_size == 1 else f"report-{report.rank}.json")
    mine = {key: getattr(report, key) for key in ("prepared", "kept", "rebuilt", "unreadable", "duplicates")}
    with locked(out / LOCK):
        try:
            writers = json.loads(path.read_text())["writers"]
        except (OSError, ValueError, KeyError):
            writers = []
        ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        place = {"ended": ended, "host": platform.node(), "process": os.getpid()}
        writers.append({**place, "inputs": [shown(item) for item in inputs], **mine})
        write_json(path, {**report.as_dict(), "writers": writers})


def _open(out: Path, source: Path, name: str, settings: PrepareSettings) -> ClipRecord | ClipPlan | VideoError:
    """The record of a clip that is finished and undamaged, else its plan, or why its source cannot be read."""
    folder = out / "clips" / name
    clip = read_clip(folder)
    if clip is not None and not find_damage(folder, clip, range(len(clip.files))):
        return clip
    try:
        return plan_clip(source, name, settings)
    except VideoError as error:
        return error


def prepare(
    inputs: list[Path],
    out: Path,
    settings: PrepareSettings | None = None,
    *,
    workers: int = 1,
    skip_unreadable: bool = False,
    progress: bool = True,
) -> PrepareReport:
    """Decode videos, find their flow, and write both into a cache; under torchrun or srun this process's share of them.

    Args:
        inputs: video files, or folders of videos or of image sequences.
        out: folder of the cache; new, empty, or a cache with the same settings, which is then completed. A source whose
            content it holds keeps its clip, wherever the source lies now.
        settings: what is cached.
        workers: processes on this machine; 0 means one per available core. What is written does not depend on it.
        skip_unreadable: leave out sources that cannot be read instead of stopping before any work.
        progress: show a progress bar.

    Returns:
        What was done; also written to ``out/report.json`` (``report-RANK.json`` with several ranks).

    Raises:
        VideoError: for inputs that do not exist, hold nothing, or cannot be read.
        CacheError: for an ``out`` that is something else, or a cache of other settings or another version, or that holds
            a clip of another file that lay where one of the sources is.
        DiskFullError: when the space does not suffice; finished work is kept.
        ValueError: for a launcher's rank outside its world, or negative workers.
        RuntimeError: if a worker process was killed; finished work is kept.
    """
    settings = settings or PrepareSettings()
    inputs, out = [Path(path) for path in inputs], Path(out)
    if not inputs:
        raise VideoError("inputs must name at least one video or folder, got none")
    if workers < 0:
        raise ValueError(f"workers must be 0 (all cores) or more, got {workers}")
    workers = workers or cores()
    rank, world_size = rank_and_world_size()
    found = find_sources(inputs, settings.pattern)
    identity = _identity(settings)
    _check_folder(out, identity)
    names, copies = identify(found.sources, out, settings.pattern)
    sources, source_of = list(names), {name: source for source, name in names.items()}
    report = PrepareReport(str(out), rank, world_size, passed_over=found.passed_over)
    units = units_of(len(sources), rank, world_size)
    mine = [sources[index] for index in sorted({unit[0] for unit in units})]
    outcomes: dict[Path, ClipRecord | ClipPlan | VideoError] = {}
    with show_progress("opening", len(mine), progress) as advance, ThreadPoolExecutor() as pool:
        opened = pool.map(lambda source: _open(out, source, names[source], settings), mine)
        for source, outcome in zip(mine, opened, strict=True):
            outcomes[source] = outcome
            advance()
    report.clips = [clip for clip in outcomes.values() if isinstance(clip, ClipRecord)]
    report.kept = [clip.name for clip in report.clips]
    plans = {plan.name: plan for plan in outcomes.values() if isinstance(plan, ClipPlan)}
    report.unreadable = {shown(source): str(error) for source, error in outcomes.items() if isinstance(error, VideoError)}
    for copy, name in copies.items():
        original = shown(source_of[name])
        if original in report.unreadable:  # a copy of what cannot be read, as empty files are of one another
            report.unreadable[shown(copy)] = f"{shown(copy)} is a copy: {report.unreadable[original]}"
        else:
            report.duplicates[shown(copy)] = name
    if report.unreadable and not skip_unreadable:
        raise VideoError("; ".join(report.unreadable.values()))

    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK):  # another run may have begun this cache, or named its clips alike, in the meantime
        remove_leftovers(out)
        _check_folder(out, identity)
        if not (out / "cache.json").exists():
            write_json(out / "cache.json", {"format": FORMAT, "version": VERSION, "settings": identity})
        estimate = _check_space(out, list(plans.values()), settings)
        plans = _claim(out, plans, identify(found.sources, out, settings.pattern)[0])
    if progress and plans:
        print(f"{estimate}; {workers} process{'es' * (workers > 1)} on {cores()} cores")
    for name in plans:
        (out / "clips" / name / "clip.json").unlink(missing_ok=True)
    by_source = {plan.source: plan for plan in plans.values()}
    shared = [(by_source.get(str(sources[c])), (part, parts)) for c, part, parts in units]
    tasks = [Task(out, plan, settings, share) for plan, share in shared if plan is not None]
    tasks = split_tasks(tasks, workers)
    known = all(plan.info.expected for plan in plans.values())
    total = sum(task.plan.info.expected or 0 for task in tasks)
    done, begun, places = 0, time.monotonic(), {name: place for place, name in enumerate(plans, 1)}
    with show_progress("source frames", total if known else None, progress) as advance:

        def step(name: str, frames: int) -> None:
            nonlocal done
            advance(frames, f"{name} ({places[name]} of {len(places)} clips)")
            if progress and done < FIRST_FRAMES <= done + frames < total:
                minutes = (time.monotonic() - begun) * total / (done + frames) / 60
                print(f"about {max(1, round(minutes))} minutes, by the first {FIRST_FRAMES} source frames")
            done += frames

        results, errors = run_tasks(tasks, workers, step)
    for record, rebuilt in results:
        report.rebuilt.extend(rebuilt)
        if record is not None and record.name not in report.prepared:
            report.prepared.append(record.name)
            report.clips.append(record)
    report.clips.sort(key=lambda clip: clip.name)
    report.prepared.sort()
    _write_report(out, report, inputs)
    if errors:
        raise errors[0]
    return report
