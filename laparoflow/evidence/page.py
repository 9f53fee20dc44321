"""The results of `laparoflow evidence` as Markdown; docs/RESULTS.md shows these tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laparoflow.evidence.pools import FURTHER
from laparoflow.report.sections import evidence_tables

LEFT_OUT = ("entries", "out", "real_root")


def essence(document: Mapping[str, Any]) -> dict[str, Any]:
    """What may be published of `evidence.json`: all but the single runs' scores and the names of folders."""
    settings = {name: value for name, value in document["settings"].items() if name not in LEFT_OUT}
    return {name: value for name, value in document.items() if name not in LEFT_OUT} | {"settings": settings}


def tables(document: Mapping[str, Any]) -> str:
    """Per pool a table of methods, per scene and task a table of methods and budgets, the verdicts, time and machine."""
    lines: list[str] = []
    pools = document.get("pools", [])
    for pool in dict.fromkeys(row["pool"] for row in pools):
        rows = [row for row in pools if row["pool"] == pool]
        names = [name for name in FURTHER if any(row[name] is not None for row in rows)]
        lines += [f"**Pool {pool}: mean IoU over tasks and label budgets**", ""]
        lines += _head(["pretraining", "mean", "by seed", "flow's lead (95 %)", "propagation", "key points", *names])
        for row in rows:
            lead = row.get("lead")
            text = f"{lead['mean']:+.3f} ({lead['low']:+.3f} to {lead['high']:+.3f})" if lead else ""
            seeds, tracked, points = map(_by_seed, (row["seeds"], row["propagation"], row["keypoints"]))
            further = ("" if row[name] is None else f"{row[name]:.3f}" for name in names)
            lines.append(_row([row["method"], f"{row['mean']:.3f}", seeds, text, tracked, points, *further]))
        lines.append("")
    for table in evidence_tables(document["summary"]).values():
        lines += [f"**{table.caption}**", "", *_head(table.header), *map(_row, table.rows), ""]
    most = max((verdict["ours_labels"] for verdict in document["verdicts"]), default=0)
    lines += [f"- {verdict['text']}" for verdict in document["verdicts"] if verdict["ours_labels"] == most]
    machine = document["machine"]
    state = "" if document["complete"] else " The run is not complete: the tables hold what it had by then."
    lines += [
        "",
        f"{document['seconds'] / 60:.0f} minutes on a machine of {machine['cores']} cores ({machine['processor']}, "
        f"{machine['threads']} threads), torch {machine['torch']}, commit {(machine['commit'] or 'unknown')[:12]}.{state}",
    ]
    return "\n".join(lines) + "\n"


def _by_seed(scores: Mapping[Any, float]) -> str:
    return ", ".join(f"{value:.3f}" for value in scores.values())


def _head(cells: list[str]) -> list[str]:
    return [_row(cells), "| --- |" + " ---: |" * (len(cells) - 1)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
