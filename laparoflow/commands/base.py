"""What a command is, and the check of paths that comes before torch is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

RUN = "a run of `laparoflow pretrain` or one of its checkpoints"


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        settings: dataclass of its options.
        run: does the work; imports what it needs.
        basic: heading -> the options under it that ``--help`` shows, of a command with many; ``method.CHOSEN`` stands for
            the chosen method's. Without headings it shows all.
        positional: field that is given without an option name, if any.
        files: option -> what must be there, a file or a folder, wherever the option is given.
        folders: option -> the folder that must be there.
        refuse: refuses what else can be refused without loading an implementation.
    """

    settings: type
    run: Callable[[Any], Any]
    basic: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    positional: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    refuse: Callable[[Any], None] = lambda settings: None

    def check(self, settings: Any) -> None:
        """Refuse paths that are not there, by a FileNotFoundError, and what else ``refuse`` knows."""
        for option, what in (*self.folders.items(), *self.files.items()):
            given = attrgetter(option)(settings)
            for path in map(Path, given if isinstance(given, list) else [] if given is None else [given]):
                if not (path.is_dir() if option in self.folders else path.exists()):
                    raise FileNotFoundError(f"{option}: expected {what}, found nothing at {path}")
        self.refuse(settings)


def refuse_full(out: Path) -> None:
    """Refuse a folder to write that holds files."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out: {out} exists and is not empty; name another folder")
