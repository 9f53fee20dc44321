"""The scene "real" as one table a pool: a method's mean over tasks and budgets, and ours against each with an interval.

An interval is of the test frames: they are drawn again with replacement, the same ones for every method, and the difference
of the means is taken each time. Seeds are counted apart from it: a lead is clear when the interval is above 0 and our lowest
seed is above the other's highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laparoflow.evidence.settings import OURS
from laparoflow.metrics.segmentation import resampled_mean_iou

RESAMPLES = 1000
PROPAGATION = "propagation"
FURTHER = ("stem", "last", "retrieval", "mirrored", "cropped", "recoloured")


def pool_rows(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per pool and method of the entries of `transfer.py`.

    Returns:
        pool, method, seeds (score by seed, mean over tasks and budgets), mean, propagation (mean over recordings by seed),
        keypoints (mean over tasks and budgets by seed), stem to recoloured (means), per_class (most labels), and lead: ours
        less this row's mean with its 95 % interval over test frames, and whether it is clear.
    """
    rows = []
    for pool in dict.fromkeys(entry["pool"] for entry in entries if "pool" in entry):
        mine = [entry for entry in entries if entry.get("pool") == pool]
        points = [entry for entry in mine if entry["task"] == "keypoints"]
        tracks = [entry for entry in mine if entry["where"].startswith(PROPAGATION)]
        probes = [e for e in mine if e["task"] == "segmentation" and not e["where"].startswith(PROPAGATION)]
        every = {(entry["where"], entry["labels"]) for entry in probes if entry["method"] == OURS}
        ours = [entry for entry in probes if entry["method"] == OURS]
        for method in dict.fromkeys(entry["method"] for entry in probes):
            own = [entry for entry in probes if entry["method"] == method]
            budgets = {(entry["where"], entry["labels"]) for entry in own}
            row: dict[str, Any] = {"pool": pool, "method": method, "seeds": _by_seed(own)}
            row["mean"] = float(np.mean(list(row["seeds"].values())))
            for name, part in (("propagation", tracks), ("keypoints", points)):
                row[name] = _by_seed([entry for entry in part if entry["method"] == method])
            row |= {name: _mean(e["metrics"].get(name) for e in own) for name in FURTHER}
            most = max(entry["labels"] for entry in own)
            classes = [entry["metrics"]["per_class_iou"] for entry in own if entry["labels"] == most]
            row["per_class"] = {name: _mean(scores[name] for scores in classes) for name in classes[0]}
            if method != OURS and budgets & every:
                row["lead"] = _lead([e for e in ours if (e["where"], e["labels"]) in budgets], own)
            rows.append(row)
    return rows


def pool_verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The leads as sentences, in the form of `verdicts.verdicts`."""
    found = []
    for row in (row for row in rows if "lead" in row):
        lead = row["lead"]
        text = (
            f"{row['pool']}, mean over tasks and budgets: {OURS} {lead['ours']:.3f}, {row['method']} {lead['other']:.3f}, "
            f"{'a clear lead of' if lead['clear'] else 'no clear lead, a difference of'} {lead['mean']:+.3f} "
            "(95 % interval over test frames "
            f"{lead['low']:+.3f} to {lead['high']:+.3f}; ahead with {lead['ahead']} of {lead['paired']} seeds)"
        )
        found.append({
            "where": row["pool"], "ours_labels": lead["most"], "other": row["method"], "other_labels": lead["most"],
            "ours": lead["ours"], "others": lead["other"], "separated": lead["clear"], "ahead": lead["ahead"],
            "seeds": lead["paired"], "text": text,
        })  # fmt: skip
    return found


def _lead(ours: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shared = {(e["where"], e["labels"]) for e in ours} & {(e["where"], e["labels"]) for e in other}
    ours, other = ([e for e in part if (e["where"], e["labels"]) in shared] for part in (ours, other))
    difference = _resampled(ours) - _resampled(other)
    low, high = np.percentile(difference, [2.5, 97.5])
    a, b = _by_seed(ours), _by_seed(other)
    paired = sorted(set(a) & set(b))
    means = float(np.mean(list(a.values()))), float(np.mean(list(b.values())))
    apart = len(a) > 1 and len(b) > 1 and min(a.values()) > max(b.values())
    return {
        "ours": means[0], "other": means[1], "mean": means[0] - means[1], "low": float(low), "high": float(high),
        "ahead": sum(a[seed] > b[seed] for seed in paired), "paired": len(paired), "clear": bool(low > 0 and apart),
        "most": max(e["labels"] for e in ours),
    }  # fmt: skip


def _resampled(entries: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Means over the entries with the test frames of each task drawn again, [RESAMPLES]."""
    scenes = sorted({entry["where"] for entry in entries})
    values = [
        resampled_mean_iou(np.asarray(frames).reshape(len(frames), round(len(frames[0]) ** 0.5), -1), RESAMPLES, place)
        for entry in entries
        for place in [scenes.index(entry["where"])]
        for frames in entry["metrics"]["frames"]
    ]
    return np.mean(values, axis=0)


def _by_seed(entries: Sequence[dict[str, Any]]) -> dict[int, float]:
    scored = [entry for entry in entries if entry["score"] is not None]
    seeds = sorted({entry["seed"] for entry in scored})
    return {seed: float(np.mean([entry["score"] for entry in scored if entry["seed"] == seed])) for seed in seeds}


def _mean(values: Any) -> float | None:
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None
