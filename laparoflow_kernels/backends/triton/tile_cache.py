"""What won when tiles were timed, in memory and in a file: one answer for a variant and a class of sizes.

An entry remembers the size it was timed at and serves every call whose number of pairs is within a factor of 16, so a run
never tunes again because N changed by one. What another version of this package timed, and no longer offers, is not used.

Environment: LAPAROFLOW_TRITON_CACHE names the file (default ~/.cache/laparoflow/triton-tiles.json; an empty value keeps the
cache in memory). A file that cannot be read costs one tuning run; one that cannot be written is done without.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REUSE_FACTOR_LOG2 = 4.0

Entry = dict[str, Any]  # log2_pairs, tile (the fields of a Tile), seconds
Entries = dict[str, list[Entry]]

_memory: Entries = {}
_loaded_from: Path | None = None


def lookup(key: str, pairs: int, offered: Sequence[dict[str, int]]) -> dict[str, int] | None:
    """The remembered tile, of those offered, whose size is nearest to ``pairs``; None when none is within the factor."""
    _load()
    size = _log2(pairs)
    known = [entry for entry in _memory.get(key, []) if entry["tile"] in offered and _serves(entry, size)]
    return min(known, key=lambda entry: abs(entry["log2_pairs"] - size))["tile"] if known else None


def remember(key: str, pairs: int, tile: dict[str, int], seconds: float) -> None:
    """Put an entry in the place of all that served its size, in memory and, where a file is used, on disk."""
    size = _log2(pairs)
    others = [entry for entry in _memory.get(key, []) if not _serves(entry, size)]
    _memory[key] = [*others, {"log2_pairs": size, "tile": tile, "seconds": seconds}]
    path = cache_file()
    if path is not None:
        _write(path)


def entries() -> Entries:
    """All that is known, by key."""
    _load()
    return _memory


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
    global _loaded_from
    _memory.clear()
    _loaded_from = None


def _log2(pairs: int) -> float:
    return math.log2(max(pairs, 1))


def _serves(entry: Entry, size: float) -> bool:
    return abs(entry["log2_pairs"] - size) <= REUSE_FACTOR_LOG2


def _load() -> None:
    global _loaded_from
    path = cache_file()
    if path is not None and path != _loaded_from:
        _loaded_from = path
        _memory.update(_read(path))


def _read(path: Path) -> Entries:
    """What a file holds; nothing where it cannot be read."""
    try:
        stored = json.loads(path.read_text())
        return {
            key: [entry for entry in known if entry["log2_pairs"] >= 0 and isinstance(entry["tile"], dict)]
            for key, known in stored.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(path: Path) -> None:
    """Replace the file; what another process has written meanwhile, of other variants and sizes, stays."""
    for key, known in _read(path).items():
        mine = _memory.setdefault(key, [])
        mine += [entry for entry in known if not any(_serves(other, entry["log2_pairs"]) for other in mine)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(_memory, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)
    except OSError:
        # a read-only home directory: the choice stays in memory
        return
