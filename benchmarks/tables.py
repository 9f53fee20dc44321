"""The tables of a results file, as Markdown: how a figure reads, one table writer, the page of a whole run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.case import PARTS

Row = dict[str, Any]


def seconds_text(seconds: float) -> str:
    """Three figures and a unit: "12.3 ms", "1.20 s"."""
    scale, unit = next((s for s in ((1.0, "s"), (1e3, "ms")) if seconds * s[0] >= 0.9995), (1e6, "µs"))
    value = seconds * scale
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def bytes_text(count: float | None) -> str:
    """Megabytes, or gigabytes from 10,000 MB on; "-" for None."""
    if count is None:
        return "-"
    return f"{count / 1e9:.1f} GB" if count >= 1e10 else f"{count / 1e6:,.0f} MB"


def cell(row: Row | None) -> str:
    """Time and memory of a row, or why there are none."""
    if row is None:
        return "-"
    if row["status"] != "ok":
        return "n/a" if row["status"] == "not applicable" else str(row["status"])
    return f"{seconds_text(row['seconds'])}, {bytes_text(row['extra_bytes'])}"


def markdown(header: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    """A table; the first column to the left, all others to the right."""
    names = list(header)
    out = ["| " + " | ".join(names) + " |", "|" + "|".join([" --- ", *[" ---: "] * (len(names) - 1)]) + "|"]
    return out + ["| " + " | ".join(line) + " |" for line in lines]


def machine_line(results: Row) -> str:
    """One sentence: where, with what, when, which commit."""
    machine = results["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores"
    driver = (machine.get("gpu_facts") or {}).get("driver_version")
    named = [("driver", driver), ("torch", machine["packages"]["torch"]), ("triton", machine["gpu"] and
             machine["packages"].get("triton"))]  # fmt: skip
    commit = (machine["commit"] or "unknown")[:10] + (" with changes" if machine["uncommitted_changes"] else "")
    return "; ".join([where, *(f"{name} {value}" for name, value in named if value), machine["date"][:10],
                      f"commit {commit}."])  # fmt: skip


def page(results: Row) -> str:
    """Everything in a results file: a line for each case and peer that ran; and what did not run, with the reason."""
    grouped: dict[tuple[str, str], dict[str, Row]] = {}
    for row in results["rows"]:
        grouped.setdefault((row["label"], row["peer"]), {})[row["part"]] = row
    lines, refused = [], []
    for (label, peer), parts in grouped.items():
        last = list(parts.values())[-1]
        if all(row["status"] != "ok" for row in parts.values()):
            refused.append(f"- {label}: {peer}: {last['status']}: {last['reason']}")
            continue
        clock = next((row["sm_clock"] for row in parts.values() if row.get("sm_clock")), "-")
        both = next((row for name in ("both", "backward") if (row := parts.get(name, {})).get("ratio")), {})
        lines.append([
            label, peer, *(_spread(parts.get(part)) for part in PARTS),
            *(bytes_text((parts.get(part) or {}).get("extra_bytes")) for part in ("forward", "both")),
            f"{both['ratio']:.2f} ({both['bound']})" if both else "-", clock,
        ])  # fmt: skip
    header = ("case", "peer", *PARTS, "memory forward", "memory both", "time / floor", "SM clock")
    return "\n".join([f"# {machine_line(results)}", "", *markdown(header, lines), "", *refused, ""])


def _spread(row: Row | None) -> str:
    if row is None or row["status"] != "ok":
        return cell(row)
    if row["rounds"] == 1:
        return seconds_text(row["seconds"]) + " (1 run)"
    return seconds_text(row["seconds"]) + (f" ± {50 * row['iqr'] / row['seconds']:.0f} %" if "iqr" in row else "")
