"""Tables of a results file, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.case import PARTS, Case

Row = dict[str, Any]
SHORT = {"not applicable": "n/a"}


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


def markdown(header: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    """A table; the first column to the left, all others to the right."""
    names = list(header)
    out = ["| " + " | ".join(names) + " |", "|" + "|".join([" --- ", *[" ---: "] * (len(names) - 1)]) + "|"]
    return out + ["| " + " | ".join(line) + " |" for line in lines]


def machine_line(results: Row) -> str:
    """One sentence: where, with what, when, which commit."""
    machine = results["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores"
    commit = (machine["commit"] or "unknown")[:10] + (" with changes" if machine["uncommitted_changes"] else "")
    return f"{where}; torch {machine['packages']['torch']}; {machine['date'][:10]}; commit {commit}."


def plain_sizes(results: Row, dim: int = 64) -> list[int]:
    """Pixels of the one-frame plain cases of one width, in the first dtype of the results."""
    cases = {Case(**row["case"]) for row in results["rows"]}
    first = results["rows"][0]["case"]["dtype"] if results["rows"] else "float32"
    device = results["machine"]["device"]
    return sorted(case.pixels for case in cases if case == Case(case.pixels, dim, dtype=first, device=device))


def peers_of(results: Row) -> list[str]:
    """Peers in the order of their first row."""
    return list(dict.fromkeys(row["peer"] for row in results["rows"]))


def full_table(results: Row) -> list[str]:
    """Every case: a line per peer, with spread, memory and ratio to the floor; and what did not run, with the reason."""
    out: list[str] = []
    for label in dict.fromkeys(row["label"] for row in results["rows"]):
        rows = {(row["peer"], row["part"]): row for row in results["rows"] if row["label"] == label}
        floors = {part: row["floor_seconds"] for (_, part), row in rows.items() if row.get("floor_seconds")}
        shown, refused = [], []
        for peer in dict.fromkeys(name for name, _ in rows):
            parts = [rows[peer, part] for part in PARTS]
            if any(part["status"] == "ok" for part in parts):
                both = parts[2]
                ratio = f"{both['ratio']:.2f}" if both.get("ratio") else "-"
                memory = [bytes_text(part.get("extra_bytes")) for part in (parts[0], both)]
                shown.append([peer, *(_time_with_spread(part) for part in parts), *memory, ratio])
            else:
                refused.append(f"- {peer}: {parts[2]['status']}: {parts[2]['reason']}")
        out += [f"## {label}", ""]
        if shown:
            floor = [f"floor ({rows[shown[0][0], 'both'].get('bound', '?')})"]
            floor += [seconds_text(floors[part]) if part in floors else "-" for part in PARTS]
            header = ["peer", *PARTS, "memory forward", "memory both", "both / floor"]
            out += [*markdown(header, [*shown, [*floor, "", "", ""]]), ""]
        out += [*refused, ""] if refused else []
    return out


def _time_with_spread(row: Row) -> str:
    if row["status"] != "ok":
        return str(SHORT.get(row["status"], row["status"]))
    spread = f" ± {100 * row['iqr'] / 2 / row['seconds']:.0f} %" if row["rounds"] > 1 else " (1 run)"
    return seconds_text(row["seconds"]) + spread


def bars_table(found: list[Row]) -> list[str]:
    """The goals with their measured figures."""
    lines = []
    for bar in found:
        measured = bar["note"] if bar["measured"] is None else f"{bar['measured']:.3g}"
        verdict = {True: "pass", False: "**fail**", None: "-"}[bar["passed"]]
        lines.append([bar["name"], bar["goal"], measured, verdict])
    return markdown(["goal", "at", "measured", ""], lines)
