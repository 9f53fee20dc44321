"""What the report knows how to read: a folder's kind, and its content as plain values.

    probe       metrics.json of `laparoflow probe` beside predictions/ and features/
    pretrain    run.json, config.yaml and logs/csv/*/metrics.csv of `laparoflow pretrain`
    evidence    evidence.json of `laparoflow evidence`

A folder may be several of these, and the folders below it are looked at too.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROBE_FILE, PRETRAIN_FILE, EVIDENCE_FILE = "metrics.json", "run.json", "evidence.json"
KIND_OF_FILE = {EVIDENCE_FILE: "evidence", PROBE_FILE: "probe", PRETRAIN_FILE: "pretrain"}


@dataclass
class Source:
    """One thing to report on: its kind, its folder, a name for it, and what its JSON file holds.

    ``curves`` are of a run, name -> [(step, value), ...]; ``pictures`` are PNG files, relative name -> path.
    """

    kind: str
    folder: Path
    title: str
    content: dict[str, Any]
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)


def find_sources(runs: list[Path]) -> list[Source]:
    """Everything reportable in these folders, in the order given, then by name; errors are those of ``write_report``."""
    found: dict[Path, Source] = {}
    for run in runs:
        if not run.is_dir():
            raise FileNotFoundError(f"runs: {run} is not a folder")
        results = (path for name in KIND_OF_FILE for path in sorted(run.rglob(name)))
        files = [path for path in results if path.resolve() not in found]
        if not files and not any(path.is_relative_to(run.resolve()) for path in found):
            raise ValueError(f"runs: {run} holds none of {', '.join(KIND_OF_FILE)}, so there is nothing to report")
        for path in files:
            source = _read(path)
            if source is not None:
                found[path.resolve()] = source
    return list(found.values())


def _read(path: Path) -> Source | None:
    """The source that a JSON file stands for; None where the file is another program's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    kind, folder = KIND_OF_FILE[path.name], path.parent
    expected = {"probe": "runs", "pretrain": "steps", "evidence": "entries"}[kind]
    if not isinstance(content, dict) or expected not in content:
        return None
    source = Source(kind, folder, f"{folder.parent.name}/{folder.name}" if folder.parent.name else folder.name, content)
    patterns = ("*/pictures/*.png", "real/*/pictures/*.png") if kind == "evidence" else ("*/*.png",)
    source.pictures = {str(p.relative_to(folder)): p for pattern in patterns for p in sorted(folder.glob(pattern))}
    if kind == "pretrain":
        source.curves = read_curves(folder)
    return source


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Logged values of a pretraining run over its steps; where a resumed run repeats a step, the later file counts."""
    merged: dict[str, dict[int, float]] = {}
    files = folder.glob("logs/csv/*/metrics.csv")
    for path in sorted(files, key=lambda p: (len(p.parent.name), p.parent.name)):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    with contextlib.suppress(KeyError, TypeError, ValueError):  # an empty cell, or a line that was cut off
                        step, value = int(row["step"]), float(text)
                        if name not in (None, "step", "epoch") and math.isfinite(value):
                            merged.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in sorted(merged.items())}
