"""``laparoflow report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laparoflow.commands.base import Command


@dataclass
class ReportCommand:
    """Runs to one HTML page.

    Attributes:
        runs: folders written by ``pretrain`` and ``probe``.
        out: the page to write.
        overwrite: replace an earlier page.
    """

    runs: list[Path]
    out: Path
    overwrite: bool = False


def refuse(command: ReportCommand) -> None:
    if Path(command.out).exists() and not command.overwrite:
        raise FileExistsError(f"out: {command.out} exists; name another page or set overwrite")


def run(command: ReportCommand) -> None:
    from laparoflow.report import write_report

    print(write_report(command.runs, command.out))


COMMAND = Command(
    ReportCommand,
    run,
    positional="runs",
    folders={"runs": "a folder written by `laparoflow pretrain`, `probe` or `evidence`"},
    refuse=refuse,
)
