"""``laparoflow export``."""

from __future__ import annotations

from laparoflow.commands.base import RUN, Command
from laparoflow.export import ExportSettings


def run(settings: ExportSettings) -> None:
    from laparoflow.export import export_run

    for path in export_run(settings):
        print(path)


COMMAND = Command(
    ExportSettings, run, positional="run", files={"run": RUN}, folders={"probes": "a folder of `laparoflow probe`"}
)
