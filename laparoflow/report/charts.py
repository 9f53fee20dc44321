"""Charts as SVG whose text and axes take the colour of the page around them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

COLOURS = ("#0e8a63", "#c2517d", "#4a86bd", "#c98a1b", "#8a6cc0", "#7b8789", "#bd5335", "#2aa5a0")
INK = "#7f8183"
"""Drawn in place of the page's text colour, which takes its place in the SVG."""
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@matplotlib.rc_context(STYLE)
def score_chart(summary: Sequence[Mapping[str, Any]], score: str, label: str) -> str:
    """Score, which the entries have as {"mean", "deviation"}, against label budget, a line per backbone."""
    figure, axes = _figure(4.2, 3)
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
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(labels, means, deviations, marker="o", capsize=3, label=backbone, color=colour)
    axes.set_xscale("log")
    axes.set_xticks(sorted(budgets))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("labelled frames")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if budgets:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


@matplotlib.rc_context(STYLE)
def bar_chart(values: Mapping[str, Mapping[str, float | None]], label: str) -> str:
    """Bars per class: values by backbone, then by class; None is left out."""
    names = list(next(iter(values.values())))
    figure, axes = _figure(4.2, 0.6 + 0.17 * len(names) * (len(values) + 1))
    for number, (backbone, row) in enumerate(values.items()):
        places = np.arange(len(names)) + 0.8 * (number + 0.5) / len(values) - 0.4
        heights = np.array([row[name] for name in names], float)  # None becomes NaN
        axes.barh(places, heights, 0.75 / len(values), label=backbone, color=COLOURS[number % len(COLOURS)])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3, axis="x")
    figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=2)
    return _svg(figure)


@matplotlib.rc_context(STYLE)
def confusion_chart(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Which share of each true class (rows) is predicted as which class (columns), in percent."""
    matrix = np.asarray(counts, float)
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 1.4 + 0.42 * len(names)
    figure, axes = _figure(side, side)
    axes.imshow(share, cmap="viridis", vmin=0, vmax=100)
    for row, column in np.ndindex(*share.shape):
        dark = share[row, column] < 60
        place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "color": "#ffffff" if dark else "#000000"}
        axes.text(column, row, f"{share[row, column]:.0f}", **place)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return _svg(figure)


@matplotlib.rc_context(STYLE)
def curve_chart(points: Sequence[tuple[int, float]]) -> str:
    """A logged value over steps."""
    figure, axes = _figure(3.1, 1.9)
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=COLOURS[0], linewidth=1.4, marker="." if len(points) < 3 else None)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(alpha=0.3)
    return _svg(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    """The SVG element, without names that another chart of the page would share."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue().partition("<svg")[2], flags=re.S)
    text = "<svg" + text
    return re.sub(r'<g id="[^"]*"', "<g", text).replace(INK, "currentColor")
