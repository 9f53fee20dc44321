"""docs/EVIDENCE.md shows what docs/evidence*.json hold, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from laparoflow.evidence.page import NAMES, essence, kept_file, main, marks, with_tables
from laparoflow.evidence.verdicts import summarise, verdicts

DOCS = Path(__file__).parents[2] / "docs"


def made_up() -> dict[str, Any]:
    scores = {"flow": (0.5, 0.6), "random init": (0.3, 0.4)}
    entries = [
        {"scene": "default", "task": "segmentation", "method": method, "labels": 22, "seed": seed, "score": value}
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    return {
        "format": "laparoflow-evidence-1",
        "complete": False,
        "settings": {"out": "/somewhere", "real_root": None, "labels": [22]},
        "machine": {"processor": "x86_64", "cores": 2, "threads": 1, "torch": "2.15", "commit": None},
        "notes": [],
        "seconds": 120.0,
        "cpu_seconds": 90.0,
        "entries": entries,
        "summary": summarise(entries),
        "verdicts": verdicts(entries),
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_page_equals_the_file(name: str) -> None:
    document = json.loads(kept_file(DOCS, name).read_text(encoding="utf-8"))
    page = (DOCS / "EVIDENCE.md").read_text(encoding="utf-8")
    assert page == with_tables(page, document, name)
    changed = copy.deepcopy(document)
    changed["summary"][0]["mean"] += 0.01
    assert page != with_tables(page, changed, name)


@pytest.mark.parametrize("name", NAMES)
def test_means_follow_from_the_single_values(name: str) -> None:
    document = json.loads(kept_file(DOCS, name).read_text(encoding="utf-8"))
    for entry in document["summary"]:
        assert len(entry["values"]) <= len(document["settings"]["seeds"])
        assert entry["mean"] == pytest.approx(sum(entry["values"]) / len(entry["values"]))


@pytest.mark.parametrize("name", ["results", "real"])
def test_both_files_are_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "evidence.json").write_text(json.dumps(made_up()))
    docs = tmp_path / "docs"
    docs.mkdir()
    begin, end = marks(name)
    (docs / "EVIDENCE.md").write_text(f"before\n{begin}\nstale figures\n{end}\nafter\n")
    main(tmp_path / "evidence.json", docs, name)
    kept = json.loads(kept_file(docs, name).read_text())
    assert kept == essence(made_up())
    assert "entries" not in kept
    assert "somewhere" not in json.dumps(kept)
    text = (docs / "EVIDENCE.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale figures" not in text
    assert "| flow | 0.550 ± 0.071 |" in text
    assert "flow with 22 labels beats random init with 22 (0.550 against 0.350, ahead with 2 of 2 seeds)" in text
    assert "not complete" in text
    with pytest.raises(ValueError, match="marks"):
        with_tables("no marks", made_up())
