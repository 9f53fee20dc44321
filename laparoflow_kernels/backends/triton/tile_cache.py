"""What won when tiles were timed, in memory and in a file: one answer for a variant and a class of sizes.

Sizes from 2^30 pairs on are one class, smaller ones another, so that a run does not tune again because N changed.

Environment: LAPAROFLOW_TRITON_CACHE names the file (default ~/.cache/laparoflow/triton-tiles.json; an empty value keeps the
cache in memory). A file that cannot be read costs one tuning run; one that cannot be written is done without.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

Tile = dict[str, int]

_memory: dict[str, Tile] = {}


def lookup(key: str, pairs: int, offered: Sequence[Tile]) -> Tile | None:
    """The remembered tile of a variant and size; None where there is none, or it is not among those offered any more."""
    name = _name(key, pairs)
    if name not in _memory:
        _memory.update({**_read(), **_memory})
    tile = _memory.get(name)
    return tile if tile in offered else None


def remember(key: str, pairs: int, tile: Tile) -> None:
    """Put an answer into memory and, where a file is used, on disk; what another process has written meanwhile stays."""
    _memory[_name(key, pairs)] = tile
    path = cache_file()
    if path is None:
        return
    _memory.update({**_read(), **_memory})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(_memory, file, indent=1)
        os.replace(file.name, path)
    except OSError:  # a read-only home directory: the choice stays in memory
        return


def cache_file() -> Path | None:
    """Where choices are kept, None for memory alone."""
    named = os.environ.get("LAPAROFLOW_TRITON_CACHE")
    if named is not None:
        return Path(named) if named else None
    try:
        return Path.home() / ".cache" / "laparoflow" / "triton-tiles.json"
    except RuntimeError:  # nobody's home
        return None


def forget() -> None:
    """Drop the cache in memory; the next call reads the file again."""
    _memory.clear()


def _name(key: str, pairs: int) -> str:
    return f"{key}|{'large' if pairs >= 2**30 else 'small'}"


def _read() -> dict[str, Tile]:
    """What the file holds; nothing where it cannot be read."""
    path = cache_file()
    try:
        stored = json.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return {name: tile for name, tile in stored.items() if isinstance(tile, dict)} if isinstance(stored, dict) else {}
