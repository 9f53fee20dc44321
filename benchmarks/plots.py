"""Time and extra memory of forward + backward against N, log-log, a line per peer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.case import Case
from benchmarks.files import write_atomically

DIM = 64


def lines_of(results: dict[str, Any]) -> dict[str, list[tuple[int, float, float]]]:
    """Per peer its points (N, seconds, extra bytes); only rows that are right have points."""
    sizes = tables.plain_sizes(results, DIM)
    first = results["rows"][0]["case"] if results["rows"] else {}
    labels = {Case(n, DIM, dtype=first["dtype"], device=first["device"]).label: n for n in sizes}
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for row in results["rows"]:
        if row["part"] == "both" and row["status"] == "ok" and row["label"] in labels:
            lines.setdefault(row["peer"], []).append((labels[row["label"]], row["seconds"], float(row["extra_bytes"])))
    return {peer: sorted(points) for peer, points in lines.items()}


def floor_line(results: dict[str, Any]) -> list[tuple[int, float]]:
    """(N, floor in seconds) of the plain cases."""
    sizes = set(tables.plain_sizes(results, DIM))
    first = results["rows"][0]["case"] if results["rows"] else {}
    labels = {Case(n, DIM, dtype=first["dtype"], device=first["device"]).label: n for n in sizes}
    points = {
        labels[row["label"]]: row["floor_seconds"]
        for row in results["rows"]
        if row["part"] == "both" and row["label"] in labels and row.get("floor_seconds")
    }
    return sorted(points.items())


def draw(results: dict[str, Any], stem: Path) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "benchmark"
    figure, (time_axes, memory_axes) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for number, (peer, points) in enumerate(lines_of(results).items()):
        sizes, seconds, extra = zip(*points, strict=True)
        style = {"marker": "osD^vPX*<>"[number % 10], "linewidth": 2.4 if peer.startswith("ours") else 1.3, "label": peer}
        time_axes.loglog(sizes, seconds, **style)
        memory_axes.loglog(sizes, [max(count, 1e4) / 1e6 for count in extra], **style)
    floor = floor_line(results)
    if floor:
        time_axes.loglog(*zip(*floor, strict=True), linestyle=":", color="black", label="floor")
    machine = results["machine"]
    time_axes.set_ylabel("seconds, forward + backward")
    memory_axes.set_ylabel("MB above inputs and gradients")
    for axes in (time_axes, memory_axes):
        axes.set_xlabel("N queries = N keys")
        axes.grid(True, which="both", alpha=0.2)
    time_axes.legend(fontsize=8)
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    figure.suptitle(f"D = {DIM}, {results['rows'][0]['case']['dtype'] if results['rows'] else ''}, {where}", fontsize=10)
    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], dpi=130, metadata=metadata)
        written.append(stem.with_suffix(suffix))
        write_atomically(written[-1], buffer.getvalue())
    pyplot.close(figure)
    return written
