"""Time and extra memory of forward + backward against N, log-log, a line per peer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from benchmarks import tables
from laparoflow.files import write_bytes


def draw(results: dict[str, Any], path: Path) -> Path:
    """Write a PNG of the plain cases; only rows that are right have points."""
    from matplotlib.figure import Figure

    rows = tables.plain_rows(results)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for number, peer in enumerate(dict.fromkeys(peer for peer, _, _ in rows)):
        found = {n: rows[peer, n, "both"] for n in tables.sizes_of(rows) if (peer, n, "both") in rows}
        points = {n: row for n, row in found.items() if row["status"] == "ok"}
        style = {"marker": "osD^vPX*<>"[number % 10], "linewidth": 2.4 if peer.startswith("ours") else 1.3, "label": peer}
        if points:
            time_axes.loglog(list(points), [row["seconds"] for row in points.values()], **style)
            memory_axes.loglog(list(points), [max(row["extra_bytes"] or 0, 1e4) / 1e6 for row in points.values()], **style)
    floors = {n: row["floor_seconds"] for (_, n, part), row in rows.items() if part == "both" and row.get("floor_seconds")}
    if floors:
        time_axes.loglog(*zip(*sorted(floors.items()), strict=True), linestyle=":", color="black", label="floor")
    time_axes.set_ylabel("seconds, forward + backward")
    memory_axes.set_ylabel("MB above inputs and gradients")
    for axes in (time_axes, memory_axes):
        axes.set_xlabel("N queries = N keys")
        axes.grid(True, which="both", alpha=0.2)
    if rows:
        time_axes.legend(fontsize=8)
    figure.suptitle(f"D = {tables.DIM}; {tables.machine_line(results)}", fontsize=10)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130, metadata={"Software": None})
    return write_bytes(path, picture.getvalue())
