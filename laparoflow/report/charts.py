"""Charts as PNG: score against label budget, and learning curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

COLOURS = ("#0b6e4f", "#b5446e", "#3a6ea5", "#c98a1b", "#6b4e9b", "#5f6b6d", "#a33b20", "#2aa5a0")
DOTS_PER_INCH = 110


def score_chart(summary: Sequence[Mapping[str, Any]], score: str, label: str) -> bytes:
    """Score against label budget with error bars of one deviation, a line per backbone.

    Args:
        summary: entries with "backbone", "labels" and `score` -> {"mean", "deviation"}.
        score: which score.
        label: its name on the axis.

    Returns:
        A PNG file's bytes.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    budgets: set[int] = set()
    for number, backbone in enumerate(dict.fromkeys(entry["backbone"] for entry in summary)):
        points = sorted(
            (entry["labels"], entry[score]["mean"], entry[score]["deviation"] or 0.0)
            for entry in summary
            if entry["backbone"] == backbone and entry[score]["mean"] is not None
        )
        if not points:
            continue
        labels, means, deviations = zip(*points, strict=True)
        budgets.update(labels)
        axes.errorbar(
            labels,
            means,
            deviations,
            marker="o",
            capsize=3,
            label=backbone,
            color=COLOURS[number % len(COLOURS)],
        )
    axes.set_xscale("log")
    axes.set_xticks(sorted(budgets))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("labelled frames")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if budgets:
        axes.legend(frameon=False)
    return _png(figure)


def curve_chart(curves: Mapping[str, Sequence[tuple[int, float]]]) -> bytes:
    """Logged values over steps, a small panel each; returns a PNG file's bytes."""
    columns = 3
    rows = max(1, -(-len(curves) // columns))
    figure = Figure(figsize=(9.6, 2.2 * rows), layout="constrained")
    for number, (name, points) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=COLOURS[0], linewidth=1.2, marker="." if len(points) < 3 else None)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(alpha=0.3)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
