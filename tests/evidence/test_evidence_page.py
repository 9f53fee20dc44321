"""docs/RESULTS.md shows what docs/evidence*.json hold, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from laparoflow.evidence.page import essence, tables
from laparoflow.evidence.verdicts import summarise, verdicts

DOCS = Path(__file__).parents[2] / "docs"
FILES = sorted(DOCS.glob("evidence*.json"))


def shown(document: dict[str, Any]) -> list[str]:
    """The lines of the tables that hold figures."""
    return [line for line in tables(document).splitlines() if line.startswith(("| ", "- ")) and "." in line]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_equals_the_file(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    page = (DOCS / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    assert len(shown(document)) > 8
    assert [line for line in shown(document) if line.startswith("| ") and line not in page] == []
    changed = copy.deepcopy(document)
    changed["summary"][0]["mean"] += 0.01
    assert not set(shown(changed)) <= set(page)


def test_there_are_files_to_compare() -> None:
    assert {path.name for path in FILES} == {"evidence.json"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_means_follow_from_the_single_values(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    for entry in document["summary"]:
        assert len(entry["values"]) <= len(document["settings"]["seeds"])
        assert entry["mean"] == pytest.approx(sum(entry["values"]) / len(entry["values"]))


def test_what_is_published_names_no_folder_and_no_single_score() -> None:
    scores = {"flow": (0.5, 0.6), "random init": (0.3, 0.4)}
    entries = [
        {"scene": "default", "task": "segmentation", "method": method, "labels": 22, "seed": seed, "score": value}
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    document = {
        "format": "laparoflow-evidence-1",
        "complete": False,
        "settings": {"out": "/somewhere", "real_root": "/else", "labels": [22]},
        "machine": {"processor": "x86_64", "cores": 2, "threads": 1, "torch": "2.15", "commit": None},
        "seconds": 120.0,
        "entries": entries,
        "summary": summarise(entries),
        "verdicts": verdicts(entries),
        "pools": [],
    }
    kept = essence(document)
    assert "entries" not in kept
    assert kept["settings"] == {"labels": [22]}
    text = tables(kept)
    assert "| flow | 0.550 ± 0.071 |" in text
    assert "flow with 22 labels beats random init with 22 (0.550 against 0.350, ahead with 2 of 2 seeds)" in text
    assert "not complete" in text
