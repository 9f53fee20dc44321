"""The results of `laparoflow evidence` as docs/EVIDENCE.md shows them.

    python -m laparoflow.evidence.page OUT/evidence.json docs

writes docs/evidence.json (settings, machine, time, means and deviations, verdicts; no single scores of frames) and puts
its tables between the marks in docs/EVIDENCE.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laparoflow.report.files import write_bytes, write_json
from laparoflow.report.sections import CHARTED, SCORE_NAMES, spread_text

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
KEPT = ("format", "complete", "settings", "machine", "notes", "seconds", "cpu_seconds", "summary", "verdicts")


def essence(document: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of `evidence.json`: all but the single runs' scores and the folder's name."""
    kept = {name: document[name] for name in KEPT}
    kept["settings"] = {name: value for name, value in document["settings"].items() if name not in ("out", "real_root")}
    return kept


def tables(document: Mapping[str, Any]) -> str:
    """Markdown: per scene and task a table of methods and budgets, then the verdicts, then time and machine."""
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
    lines += [f"- {verdict['text']}" for verdict in document["verdicts"]]
    machine = document["machine"]
    state = "" if document["complete"] else " The run is not complete: the tables hold what it had by then."
    lines += [
        "",
        f"{document['cpu_seconds'] / 60:.0f} CPU minutes, {document['seconds'] / 60:.0f} minutes on a machine of "
        f"{machine['cores']} cores ({machine['processor']}, {machine['threads']} threads), torch {machine['torch']}, "
        f"commit {(machine['commit'] or 'unknown')[:12]}.{state}",
    ]
    return "\n".join(lines) + "\n"


def with_tables(page: str, document: Mapping[str, Any]) -> str:
    """The page with the tables between its marks.

    Raises:
        ValueError: the page lacks the marks.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"page: expected the marks {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{tables(document)}{END}{tail}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(source: Path, docs: Path) -> None:
    """Writes both files."""
    document = essence(json.loads(source.read_text(encoding="utf-8")))
    write_json(docs / "evidence.json", document)
    page = docs / "EVIDENCE.md"
    write_bytes(page, with_tables(page.read_text(encoding="utf-8"), document).encode())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
