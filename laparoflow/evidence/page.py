"""The results of `laparoflow evidence` as docs/EVIDENCE.md shows them.

    python -m laparoflow.evidence.page OUT/evidence.json docs [NAME]

writes docs/evidence.json (settings, machine, time, means and deviations, verdicts; no single scores of frames) and puts
its tables between the marks in docs/EVIDENCE.md. NAME, one of `NAMES`, means evidence_NAME.json and the marks of that run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laparoflow.files import write_bytes, write_json
from laparoflow.report.sections import CHARTED, SCORE_NAMES, spread_text

NAMES = ("results", "large_views", "real")
"""The runs that the page shows."""
KEPT = ("format", "complete", "settings", "machine", "notes", "seconds", "cpu_seconds", "summary", "verdicts")


def essence(document: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of `evidence.json`: all but the single runs' scores and the folder's name."""
    kept = {name: document[name] for name in KEPT}
    kept["settings"] = {name: value for name, value in document["settings"].items() if name not in ("out", "real_root")}
    return kept


def marks(name: str) -> tuple[str, str]:
    """What stands before and after the tables of a run in the page."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def kept_file(docs: Path, name: str) -> Path:
    """Where the page's copy of a run's document is."""
    return docs / ("evidence.json" if name == NAMES[0] else f"evidence_{name}.json")


def tables(document: Mapping[str, Any]) -> str:
    """Markdown: per scene and task a table of methods and budgets, the verdicts on most labels, time and machine."""
    lines: list[str] = []
    summary = document["summary"]
    for scene, task in dict.fromkeys((entry["scene"], entry["task"]) for entry in summary):
        chosen = [entry for entry in summary if (entry["scene"], entry["task"]) == (scene, task)]
        budgets = sorted({entry["labels"] for entry in chosen})
        lines += [f"**{scene}: {task}, {SCORE_NAMES[CHARTED[task]]}**", ""]
        lines += [_row(["method", *(f"{budget} labels" for budget in budgets)]), "| --- |" + " ---: |" * len(budgets)]
        for method in dict.fromkeys(entry["method"] for entry in chosen):
            cells = {entry["labels"]: spread_text(entry) for entry in chosen if entry["method"] == method}
            lines.append(_row([method, *(cells.get(budget, "") for budget in budgets)]))
        lines.append("")
    most = max((verdict["ours_labels"] for verdict in document["verdicts"]), default=0)
    lines += [f"- {verdict['text']}" for verdict in document["verdicts"] if verdict["ours_labels"] == most]
    machine = document["machine"]
    state = "" if document["complete"] else " The run is not complete: the tables hold what it had by then."
    lines += [
        "",
        f"{document['cpu_seconds'] / 60:.0f} CPU minutes, {document['seconds'] / 60:.0f} minutes on a machine of "
        f"{machine['cores']} cores ({machine['processor']}, {machine['threads']} threads), torch {machine['torch']}, "
        f"commit {_short(machine['commit'])}.{state}",
    ]
    return "\n".join(lines) + "\n"


def with_tables(page: str, document: Mapping[str, Any], name: str = NAMES[0]) -> str:
    """The page with the tables of a run between its marks.

    Raises:
        ValueError: the page lacks the marks.
    """
    first, last = marks(name)
    head, begin, rest = page.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"page: expected the marks {first} and {last}")
    return f"{head}{begin}\n{tables(document)}{end}{tail}"


def _short(commit: str | None) -> str:
    known, dash, changes = (commit or "unknown").partition("-")
    return known[:12] + dash + changes


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(source: Path, docs: Path, name: str = NAMES[0]) -> None:
    """Writes both files."""
    document = essence(json.loads(source.read_text(encoding="utf-8")))
    page = docs / "EVIDENCE.md"
    text = with_tables(page.read_text(encoding="utf-8"), document, name)
    write_json(kept_file(docs, name), document)
    write_bytes(page, text.encode())


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or (sys.argv[3:] and sys.argv[3] not in NAMES):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
