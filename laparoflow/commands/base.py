"""What a command is, and the check of paths that comes before torch is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        settings: dataclass of its options.
        run: does the work; imports what it needs.
        basic: heading -> the options under it that ``--help`` shows; ``method.CHOSEN`` stands for the chosen method's.
        positional: field that is given without an option name, if any.
        check: refuses what can be refused without loading an implementation.
    """

    settings: type
    run: Callable[[Any], Any]
    basic: Mapping[str, tuple[str, ...]]
    positional: str | None = None
    check: Callable[[Any], None] = lambda settings: None


def need(option: str, path: Path, what: str, folder: bool = False) -> None:
    """Refuse a path that is not there.

    Raises:
        FileNotFoundError: names the option and says what was expected.
    """
    if not (path.is_dir() if folder else path.exists()):
        raise FileNotFoundError(f"{option}: expected {what}, found nothing at {path}")
