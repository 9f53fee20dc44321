"""Commands that connect the command line to a part of the package and print what came out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from laparoflow.video.settings import PrepareSettings

if TYPE_CHECKING:
    from laparoflow.demo import DemoSettings
    from laparoflow.evidence import EvidenceSettings
    from laparoflow.export import ExportSettings
    from laparoflow.probes import ProbeSettings
    from laparoflow.training.settings import PretrainSettings
    from laparoflow.training.speed import SpeedSettings


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


def run_prepare(command: PrepareCommand) -> None:
    """Prepare a cache."""
    from laparoflow.video.prepare import prepare

    report = prepare(
        command.inputs, command.out, command.settings, workers=command.workers, skip_unreadable=command.skip_unreadable
    )
    share = "" if report.world_size == 1 else f"process {report.rank} of {report.world_size} finished "
    print(f"{share}{report.frames} frames of {len(report.clips)} clips in {report.cache}")
    for reason, frames in report.excluded.items():
        print(f"left out {frames} frames: {reason}")
    for clip, problem in report.problems.items():
        print(f"{clip}: {problem}")
    for shard in report.rebuilt:
        print(f"built again: {shard}")
    for source, reason in report.unreadable.items():
        print(f"left out {source}: {reason}")
    for source, first in report.duplicates.items():
        print(f"left out {source}: the same content as {first}")


def run_pretrain(settings: PretrainSettings) -> None:
    """Train a network."""
    from laparoflow.training.launch import find_launch
    from laparoflow.training.run import pretrain

    summary = pretrain(settings)
    if find_launch(settings.trainer.devices).rank:  # one process speaks for all
        return
    loss = "nothing left to do" if summary["loss"] is None else f"loss {summary['loss']:.4f}"
    print(f"{summary['steps']} steps, {loss}, {summary['seconds']:.0f} s; run in {settings.out}")


def run_speed(settings: SpeedSettings) -> None:
    """Time the parts of training."""
    from laparoflow.training.speed import measure_speed
    from laparoflow.video.atomic import write_json

    speed = measure_speed(settings)
    print(f"{'frames per second':<24}on {speed['device']}, batches of {speed['batch_size']}, {speed['workers']} workers")
    for name, label in (("read", "reading"), ("views", "views"), ("step", "forward and backward")):
        print(f"{label:<24}{speed[name]:.1f}")
    print(f"{'waiting for data':<24}{speed['wait_share']:.0%} of a step")
    if settings.out is not None:
        write_json(settings.out, speed)


def run_probe(settings: ProbeSettings) -> None:
    """Score frozen features."""
    from laparoflow import probes

    metrics = probes.run_probe(settings)
    for row in metrics["summary"]:
        scores = ", ".join(
            f"{name} {value['mean']:.3f}"
            for name, value in row.items()
            if isinstance(value, dict) and value["mean"] is not None
        )
        print(f"{row['backbone']}, {row['labels']} labels: {scores}")
    for text in metrics["warnings"]:
        print(f"note: {text}")
    print(f"metrics and pictures in {settings.out}")


@dataclass
class ReportCommand:
    """Runs to one HTML page.

    Attributes:
        runs: folders written by ``pretrain`` and ``probe``.
        out: the page to write.
    """

    runs: list[Path]
    out: Path


def run_report(command: ReportCommand) -> None:
    """Write the page."""
    from laparoflow.report import write_report

    print(write_report(command.runs, command.out))


def run_export(settings: ExportSettings) -> None:
    """Write a trained network for others."""
    from laparoflow.export import export_run

    for path in export_run(settings):
        print(path)


def run_evidence(settings: EvidenceSettings) -> None:
    """Compare methods under one budget."""
    from laparoflow import evidence

    evidence.run_evidence(settings)


def run_demo(settings: DemoSettings) -> None:
    """The whole job on a generated video."""
    from laparoflow import demo

    demo.run_demo(settings)
