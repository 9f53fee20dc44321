"""The first screen: what came out in a sentence with its interval, a table of all backbones, and one row of pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.stats import t as student

from laparoflow.report.sections import CHARTED, SCORE_NAMES, Strip, Table, class_legend, probe_strips, spread_text
from laparoflow.report.sources import Source

LEVEL = 0.95


@dataclass
class Headline:
    sentences: list[str] = field(default_factory=list)
    table: Table | None = None
    strip: Strip | None = None
    legend: list[tuple[str, str]] = field(default_factory=list)


def headline(sources: Sequence[Source]) -> Headline:
    """The first screen of a page about these sources."""
    first, rows = Headline(), []
    for source in sources:
        if source.kind == "probe":
            first.sentences.append(probe_sentence(source.content))
            rows += _probe_rows(source.content)
            if first.strip is None and source.pictures:
                strips = probe_strips(source)
                first.strip = strips[len(strips) // 2] if strips else None
                if source.content["task"] == "segmentation":
                    first.legend = class_legend(source.content["names"])
        elif source.kind == "evidence":
            first.sentences += _evidence_sentences(source.content)
            rows += _evidence_rows(source.content)
    if rows:
        columns = dict.fromkeys(name for row in rows for name in row[2])
        cells = [[f"{name} ({labels} labels)", *(scores.get(c, "") for c in columns)] for name, labels, scores in rows]
        first.table = Table("", ["score", *columns], cells)
    return first


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = float(student.ppf((1 + LEVEL) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def probe_sentence(content: dict[str, Any]) -> str:
    """Trained against random init at the largest budget that both have, with the interval of the difference over the seeds.

    The seeds draw the labelled frames, the same ones for both, so differences are taken seed by seed.
    """
    score = CHARTED[content["task"]]
    by_budget = {(entry["backbone"], entry["labels"]): entry for entry in content["summary"]}
    budgets = [labels for backbone, labels in by_budget if backbone == "trained"]
    both = [labels for labels in budgets if ("random", labels) in by_budget]
    where = f"{'Segmentation' if content['task'] == 'segmentation' else 'Key points'} on {content['dataset']}"
    if not budgets:
        return f"{where}: no pretrained network was scored."
    labels = max(both or budgets)
    ours = by_budget["trained", labels]
    text = f"{where} with {labels} labelled frame{'s' * (labels != 1)}: {SCORE_NAMES[score]} {_number(ours[score]['mean'])}"
    if not both:
        found = interval(ours[score]["values"])
        return f"{text}{_interval_text(found, len(ours['seeds']))}; there is no random init to compare with."
    other = by_budget["random", labels]
    text += f" from pretrained features, {_number(other[score]['mean'])} from random init"
    pairs = list(zip(ours[score]["values"], other[score]["values"], strict=False))
    if not pairs or len(ours[score]["values"]) != len(other[score]["values"]) or ours["seeds"] != other["seeds"]:
        return f"{text}."
    differences = [a - b for a, b in pairs]
    found = interval(differences)
    clear = found is not None and not found[0] <= 0 <= found[1]
    word = "a difference of" if clear else "no clear difference:"
    return f"{text}, {word} {statistics.fmean(differences):+.3f}{_interval_text(found, len(differences))}."


def _interval_text(found: tuple[float, float] | None, count: int) -> str:
    if found is None:
        return " (one draw of labels, so no interval)"
    return f" (95 % interval over {count} draws of labels: {found[0]:+.3f} to {found[1]:+.3f})"


def _probe_rows(content: dict[str, Any]) -> list[tuple[str, int, dict[str, str]]]:
    """(score, labels, backbone -> text) at each backbone's largest budget."""
    most = max((entry["labels"] for entry in content["summary"] if entry["backbone"] == "trained"), default=0)
    shown = [entry for entry in content["summary"] if entry["labels"] == most]
    names = [name for name in SCORE_NAMES if content["summary"] and name in content["summary"][0]][:3]
    cells = {name: {entry["backbone"]: spread_text(entry[name]) for entry in shown} for name in names}
    return [(f"{content['task']}, {SCORE_NAMES[name]}", most, cells[name]) for name in names]


def _evidence_sentences(content: dict[str, Any]) -> list[str]:
    """Of each scene and task the first verdict, and that on random init, on most labels."""
    verdicts = content.get("verdicts", [])
    most = max((verdict["ours_labels"] for verdict in verdicts), default=0)
    chosen: dict[tuple[str, bool], str] = {}
    for verdict in verdicts:
        if verdict["ours_labels"] == most:
            chosen.setdefault((verdict["where"], verdict["other"] == "random init"), verdict["text"])
    return [f"{text[0].upper()}{text[1:]}." for text in chosen.values()]


def _evidence_rows(content: dict[str, Any]) -> list[tuple[str, int, dict[str, str]]]:
    groups: dict[tuple[str, str], dict[int, dict[str, str]]] = {}
    for entry in content["summary"]:
        budgets = groups.setdefault((entry["scene"], entry["task"]), {})
        budgets.setdefault(entry["labels"], {})[entry["method"]] = spread_text(entry)
    rows = []
    for (scene, task), budgets in groups.items():
        labels = max(budgets, key=lambda count: (len(budgets[count]), count))
        rows.append((f"{scene}: {task}, {SCORE_NAMES[CHARTED[task]]}", labels, budgets[labels]))
    return rows


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
