"""From scores to sentences: means over seeds, and whether intervals overlap.

An interval is the range of the scores over the seeds. Ours beats a control at a budget when its lowest score lies above
the control's highest; with a single seed there is no interval, and nothing beats anything. A seed draws the labelled frames
too, the same for all methods, so it is also said with how many of the seeds ours is ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from laparoflow.evidence.settings import FROM_SCRATCH, OURS
from laparoflow.probes.run import spread
from laparoflow.progress import counted

HEADLINE = {"segmentation": "mean_iou", "keypoints": "pck/0.05"}


def summarise(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, deviation and values over seeds per scene, task, method and budget."""
    groups: dict[tuple[str, str, str, int], list[float]] = {}
    for entry in entries:
        key = (entry["scene"], entry["task"], entry["method"], entry["labels"])
        groups.setdefault(key, [])
        if entry["score"] is not None:
            groups[key].append(entry["score"])
    pools = {entry["scene"]: entry.get("pool") for entry in entries}
    return [
        {"scene": scene, "task": task, "method": method, "labels": labels, "pool": pools[scene], **spread(values)}
        for (scene, task, method, labels), values in groups.items()
    ]


def verdicts(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against every other method at each budget, and against supervision with ten times the labels."""
    summary = summarise(entries)
    scores: dict[tuple[str, str, str, int], dict[int, float]] = {}
    for entry in entries:
        if entry["score"] is not None:
            key = (entry["scene"], entry["task"], entry["method"], entry["labels"])
            scores.setdefault(key, {})[entry["seed"]] = entry["score"]
    found = []
    for scene, task in dict.fromkeys((entry["scene"], entry["task"]) for entry in summary):
        chosen = [entry for entry in summary if (entry["scene"], entry["task"]) == (scene, task)]
        ours = {entry["labels"]: entry for entry in chosen if entry["method"] == OURS}
        for entry in chosen:
            same = entry["labels"] in ours and entry["method"] != OURS
            tenfold = entry["method"] == FROM_SCRATCH and entry["labels"] / 10 in ours
            if same or tenfold:
                mine = ours[entry["labels"] if same else entry["labels"] // 10]
                by_seed = [scores.get((scene, task, e["method"], e["labels"]), {}) for e in (mine, entry)]
                found.append(_compare(mine, entry, f"{scene}, {task}", *by_seed))
    return found


def _compare(
    ours: dict[str, Any], other: dict[str, Any], where: str, our_scores: dict[int, float], others: dict[int, float]
) -> dict[str, Any]:
    low, high = _range(ours["values"]), _range(other["values"])
    several = min(len(ours["values"]), len(other["values"])) > 1
    above = low is not None and high is not None and low[0] > high[1]
    behind = low is not None and high is not None and low[1] < high[0]
    separated = several and above
    word = ("beats" if several else "scores above") if above else "is below" if behind else "overlaps with"
    paired = sorted(our_scores.keys() & others.keys())
    ahead = sum(our_scores[seed] > others[seed] for seed in paired)
    seeds = f"ahead with {ahead} of {len(paired)} seeds" if several else "one seed, no interval"
    named = "training from scratch" if other["method"] == FROM_SCRATCH else other["method"]
    return {
        "where": where,
        "ours_labels": ours["labels"],
        "other": other["method"],
        "other_labels": other["labels"],
        "ours": ours["mean"],
        "others": other["mean"],
        "separated": separated,
        "ahead": ahead,
        "seeds": len(ours["values"]),
        "text": (
            f"{where}: {OURS} with {counted(ours['labels'], 'label')} {word} {named} with {other['labels']} "
            f"({_number(ours['mean'])} against {_number(other['mean'])}, {seeds})"
        ),
    }


def _range(values: Iterable[float]) -> tuple[float, float] | None:
    numbers = list(values)
    return (min(numbers), max(numbers)) if numbers else None


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
