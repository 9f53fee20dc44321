"""Where the cache of a run is, asked from another folder or another machine.

``config.yaml`` holds ``data`` as it was given, which may be relative to a folder that nobody knows any more; ``data.json``
beside it holds the absolute path and the path relative to the run.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import yaml

DATA_FILE = "data.json"


def data_places(run: Path, data: Path) -> dict[str, str]:
    """What ``data.json`` holds."""
    places = {"absolute": str(data.resolve())}
    with contextlib.suppress(ValueError):  # another drive
        places["relative"] = os.path.relpath(data.resolve(), run.resolve())
    return places


def read_config(run: Path) -> dict[str, Any]:
    """The settings of a run folder; empty where it has none."""
    config = run / "config.yaml"
    return (yaml.safe_load(config.read_text(encoding="utf-8")) or {}) if config.is_file() else {}


def candidates(run: Path) -> list[Path]:
    """Where the cache of a run may be: as given, the absolute place, beside the run, from a folder above it."""
    given = read_config(run).get("data")
    places = json.loads((run / DATA_FILE).read_text(encoding="utf-8")) if (run / DATA_FILE).is_file() else {}
    found = [Path(given)] if given else []
    found += [Path(places["absolute"])] if "absolute" in places else []
    found += [run / places["relative"]] if "relative" in places else []
    if given and not places and not Path(given).is_absolute():  # a run of an earlier version
        found += [folder / given for folder in run.resolve().parents]
    return found


def find_data(run: Path) -> Path | None:
    """The cache of a run, or None where it is in none of its places."""
    return next((place for place in candidates(run) if (place / "cache.json").is_file()), None)
