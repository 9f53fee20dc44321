"""``laparoflow report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laparoflow.commands.base import Command, need


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


def check(command: ReportCommand) -> None:
    """Refuse runs that are not there, and a page that is."""
    for path in command.runs:
        need("runs", Path(path), "a folder written by `laparoflow pretrain`, `probe` or `evidence`", folder=True)
    if Path(command.out).exists() and not command.overwrite:
        raise FileExistsError(f"out: {command.out} exists; name another page or set overwrite")


def run(command: ReportCommand) -> None:
    """Write the page, and print its path."""
    from laparoflow.report import write_report

    print(write_report(command.runs, command.out))


COMMAND = Command(
    ReportCommand, run, {"what goes in and out": ("runs", "out", "overwrite")}, positional="runs", check=check
)
