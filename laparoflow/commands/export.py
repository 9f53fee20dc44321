"""``laparoflow export``."""

from __future__ import annotations

from pathlib import Path

from laparoflow.commands.base import Command, need
from laparoflow.export import ExportSettings


def check(settings: ExportSettings) -> None:
    """Refuse a run or a probe that is not there."""
    need("run", Path(settings.run), "a run of `laparoflow pretrain` or one of its checkpoints")
    for probe in settings.probes:
        need("probes", Path(probe), "a folder of `laparoflow probe`", folder=True)


def run(settings: ExportSettings) -> None:
    """Write the export, and print the paths."""
    from laparoflow.export import export_run

    for path in export_run(settings):
        print(path)


COMMAND = Command(
    ExportSettings,
    run,
    {"what goes in and out": ("run", "out", "format", "image_size", "probes", "licence", "overwrite")},
    positional="run",
    check=check,
)
