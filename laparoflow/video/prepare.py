"""Videos to a cache.

All sources are opened before any work starts, so that an unreadable file is known at once. Finished clips and
finished shards of an earlier run are kept; damaged ones are built again. Nothing is ever half written.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from laparoflow.video.atomic import DiskFullError, write_json
from laparoflow.video.cache import FORMAT, VERSION, CacheError, ClipRecord, _find_damage, read_clip, read_header
from laparoflow.video.clip import ClipPlan, ClipWriter, fingerprint, plan_clip
from laparoflow.video.decode import VideoError, find_sources
from laparoflow.video.settings import PrepareSettings


@dataclass
class PrepareReport:
    """What a run of ``prepare`` did.

    Attributes:
        cache: folder of the cache.
        clips: records of the clips that belong to the inputs.
        prepared: names of the clips that this run finished.
        kept: names of the clips that an earlier run had finished.
        rebuilt: damaged shards that were built again, with what was wrong.
        unreadable: sources that were skipped, with the reason.
    """

    cache: str
    clips: list[ClipRecord] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Cached frames over all clips."""
        return sum(clip.frames for clip in self.clips)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "frames": self.frames}


def clip_names(sources: list[Path]) -> list[str]:
    """A folder name for every source: its stem, with as many parent folders as it takes to be unique."""
    names = []
    for source in sources:
        parts = (*source.parent.parts[1:], source.stem if source.is_file() else source.name)
        for depth in range(1, len(parts) + 1):
            name = "__".join(parts[-depth:])
            others = ["__".join((*o.parent.parts[1:], o.stem if o.is_file() else o.name)[-depth:]) for o in sources]
            if others.count(name) == 1:
                break
        else:
            name = f"{name}{source.suffix.replace('.', '_')}"
        names.append(name)
    return names


def _claim(out: Path, settings: PrepareSettings) -> None:
    """Make ``out`` a cache with these settings, or check that it is one."""
    if out.exists() and not out.is_dir():
        raise CacheError(f"out must be a folder, got the file {out}")
    if out.is_dir() and any(out.iterdir()) and not (out / "cache.json").exists():
        raise CacheError(f"out must be a new or empty folder or a cache, got {out}, which holds other files")
    wanted = settings.as_dict()
    if (out / "cache.json").exists():
        have = read_header(out)["settings"]
        different = sorted(key for key in {*have, *wanted} if have.get(key) != wanted.get(key))
        if different:
            listed = ", ".join(f"{key} is {have.get(key)!r}, asked {wanted.get(key)!r}" for key in different)
            raise CacheError(f"{out} was prepared with other settings ({listed}); choose another folder for these")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "cache.json", {"format": FORMAT, "version": VERSION, "settings": wanted})


def _check_space(out: Path, plans: list[ClipPlan], settings: PrepareSettings) -> None:
    """Refuse to start work that cannot fit on the disk."""
    needed = 0.0
    for plan in plans:
        frames = float(plan.expected or 0)
        if settings.frame_rate is not None:
            frames *= min(1.0, settings.frame_rate / plan.frame_rate)
        per_frame = len(settings.gaps) if settings.gap_choice == "all" else 1
        written = sum(file.stat().st_size for file in (out / "clips" / plan.name).glob("*.npy"))
        needed += max(0.0, frames * per_frame * plan.sample_bytes - written)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise DiskFullError(
            f"not enough space on the disk of {out}: about {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; "
            "lower short_side or frame_rate, or choose another disk"
        )


def _progress(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"),
        TimeRemainingColumn(), disable=not show,
    )  # fmt: skip


def prepare(
    inputs: list[Path],
    out: Path,
    settings: PrepareSettings | None = None,
    *,
    skip_unreadable: bool = False,
    progress: bool = True,
) -> PrepareReport:
    """Decode videos, find their flow, and write both into a cache.

    Args:
        inputs: video files, or folders of videos or of image sequences.
        out: folder of the cache; new, empty, or a cache with the same settings, which is then completed.
        settings: what is cached.
        skip_unreadable: leave out sources that cannot be read instead of stopping before any work.
        progress: show a progress bar.

    Returns:
        What was done; also written to ``out/report.json``.

    Raises:
        VideoError: for inputs that do not exist, hold nothing, or cannot be read.
        CacheError: for an ``out`` that is something else, or a cache of other settings or another version.
        DiskFullError: when the space does not suffice; finished work is kept.
    """
    settings = settings or PrepareSettings()
    inputs, out = [Path(path) for path in inputs], Path(out)
    if not inputs:
        raise VideoError("inputs must name at least one video or folder, got none")
    sources = find_sources(inputs)
    names = clip_names(sources)
    report = PrepareReport(cache=str(out))
    if out.exists():
        _claim(out, settings)
    finished = {name: read_clip(out / "clips" / name) for name in names}
    plans, problems = [], {}
    for source, name in zip(sources, names, strict=True):
        clip = finished[name]
        if clip is not None:
            if clip.fingerprint != fingerprint(source):
                raise CacheError(
                    f"{out} already holds a clip {name!r} of another file ({clip.source}); "
                    f"rename {source} or choose another folder"
                )
            _, damaged = _find_damage(out / "clips" / name, clip, hashes=True)
            if not damaged:
                report.kept.append(name)
                report.clips.append(clip)
                continue
        try:
            plans.append(plan_clip(source, name, settings))
        except VideoError as error:
            problems[str(source)] = str(error)
    if problems and not (skip_unreadable and len(problems) < len(sources)):
        raise VideoError("; ".join(problems.values()))
    report.unreadable = problems
    _claim(out, settings)
    _check_space(out, plans, settings)
    with _progress(progress) as bar:
        for plan in plans:
            task = bar.add_task(plan.name, total=plan.expected)
            folder = out / "clips" / plan.name
            (folder / "clip.json").unlink(missing_ok=True)
            result = ClipWriter(folder, plan, settings, lambda n, task=task: bar.advance(task, n)).run()
            report.prepared.append(plan.name)
            report.clips.append(result.record)
            report.rebuilt.extend(result.rebuilt)
    report.clips.sort(key=lambda clip: clip.name)
    write_json(out / "report.json", report.as_dict())
    return report
