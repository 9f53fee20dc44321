"""``laparoflow convert``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laparoflow.commands.base import Command
from laparoflow.progress import counted


@dataclass
class ConvertSettings:
    """A cache that version 0.1 wrote, to the present format.

    Attributes:
        cache: folder of the cache; it stays as it is.
        out: folder to write; must not exist.
    """

    cache: Path
    out: Path


def run(settings: ConvertSettings) -> None:
    from laparoflow.video.convert import convert_cache

    records = convert_cache(settings.cache, settings.out)
    frames = sum(record.frames for record in records)
    print(f"{counted(frames, 'frame')} of {counted(len(records), 'clip')} in {settings.out}")


COMMAND = Command(
    ConvertSettings, run, positional="cache", files={"cache": "a cache that `laparoflow prepare` of version 0.1 wrote"}
)
