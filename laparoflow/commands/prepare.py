"""``laparoflow prepare``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from laparoflow.commands.base import Command
from laparoflow.progress import counted
from laparoflow.video.settings import PrepareSettings


@dataclass(frozen=True, kw_only=True)
class PrepareCommand(PrepareSettings):
    """Videos to a cache; see ``PrepareSettings`` for the rest.

    Attributes:
        inputs: video files, folders of them, or folders of images.
        out: folder of the cache; one of an interrupted run is continued.
        workers: processes on this machine, 0 for one per core; what is written does not depend on it.
        skip_unreadable: leave out sources that cannot be read instead of stopping before any work.
    """

    inputs: list[Path]
    out: Path
    workers: int = 0
    skip_unreadable: bool = False

    @property
    def settings(self) -> PrepareSettings:
        """What decides the cache's content."""
        return PrepareSettings(**{item.name: getattr(self, item.name) for item in fields(PrepareSettings)})


def run(command: PrepareCommand) -> None:
    from laparoflow.video.prepare import prepare

    report = prepare(
        command.inputs, command.out, command.settings, workers=command.workers, skip_unreadable=command.skip_unreadable
    )
    share = "" if report.world_size == 1 else f"process {report.rank} of {report.world_size} finished "
    print(f"{share}{counted(report.frames, 'frame')} of {counted(len(report.clips), 'clip')} in {report.cache}")
    lines = [f"left out {counted(frames, 'frame')}: {reason}" for reason, frames in report.excluded.items()]
    lines += [f"{clip}: {problem}" for clip, problem in report.problems.items()]
    lines += [f"{clip}: {note}" for clip, notes in report.notes.items() for note in notes]
    lines += [f"built again: {shard}" for shard in report.rebuilt]
    lines += [f"left out {source}: {reason}" for source, reason in report.unreadable.items()]
    lines += [f"left out {source}: the same content as {first}" for source, first in report.duplicates.items()]
    lines += [f"not read, {reason}: {len(files)}, as {files[0]}" for reason, files in report.passed_over.items()]
    print(*lines, sep="\n", end="\n" * bool(lines))


DECODING = ("video_stream", "deinterlace", "drop_bad_frames")
COMMAND = Command(
    PrepareCommand,
    run,
    {
        "what goes in and out": ("inputs", "out", "pattern", "skip_unreadable", "workers"),
        "frames": ("short_side", "height", "width", "frame_rate", "image_rate", *DECODING),
        "border": ("find_border", "crop_border", "border_margin"),
        "flow": ("gaps", "gap_choice", "min_motion", "camera_motion"),
        "its estimator": ("flow_method", "dis_preset", "flow_weights", "flow_folder"),
        "the cache": ("flow_stride", "jpeg_quality", "shard_megabytes"),
    },
    positional="inputs",
    files={"inputs": "a video or a folder"},
)
