"""Object key-point similarity (OKS) and its average precision, as COCO defines them.

    OKS(detection, truth) = mean over the truth's labelled joints of exp(-d_k^2 / (2 area (2 sigma_k)^2))

and for a truth without labelled joints, d_k is the distance to its box, enlarged to twice its size. Detections of a
picture (at most 20) are taken in order of score; each goes to the free truth of highest OKS at or above the threshold,
truths that count before ignored ones (without labelled joints). Precision is the highest at any recall not below the
asked one, at 101 recalls; AP is the mean over the thresholds 0.50, 0.55, ..., 0.95.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_DETECTIONS = 20
DEFAULT_SIGMA = 0.05
SPACING = float(np.spacing(1.0))


@dataclass
class _Picture:
    """Detections of one picture in order of score, and which truths they met at each threshold."""

    scores: NDArray[np.float64]
    matched: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    truths: int


class OksAveragePrecision:
    """Accumulates pictures and gives AP, AP50, AP75 and AR.

    Args:
        sigmas: falloff of each joint, in units of the square root of the area; None takes 0.05 for all.
        joints: number of joints.
    """

    def __init__(self, joints: int, sigmas: Sequence[float] | None = None) -> None:
        self.sigmas = np.full(joints, DEFAULT_SIGMA) if sigmas is None else np.asarray(sigmas, dtype=np.float64)
        if self.sigmas.shape != (joints,) or (self.sigmas <= 0).any():
            raise ValueError(f"sigmas must be {joints} numbers above 0, got {sigmas}")
        self._pictures: list[_Picture] = []

    def update(
        self,
        detections: NDArray[np.floating],
        scores: NDArray[np.floating],
        truth: NDArray[np.floating],
        areas: NDArray[np.floating] | None = None,
        boxes: NDArray[np.floating] | None = None,
    ) -> None:
        """Counts one picture.

        Args:
            detections: [P, K, 2 or 3] x and y of each joint.
            scores: [P].
            truth: [I, K, 3] (x, y, visibility).
            areas: [I] in square pixels; None takes the boxes'.
            boxes: [I, 4] (x, y, width, height); None takes those of the labelled joints.
        """
        boxes = joint_boxes(truth) if boxes is None else np.asarray(boxes, dtype=np.float64)
        areas = boxes[:, 2] * boxes[:, 3] if areas is None else np.asarray(areas, dtype=np.float64)
        order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="mergesort")[:MOST_DETECTIONS]
        ignored_truth = np.logical_not((np.asarray(truth)[..., 2] > 0).any(axis=1))
        truth_order = np.argsort(ignored_truth, kind="mergesort")
        similarity = oks(detections[order], truth[truth_order], areas[truth_order], boxes[truth_order], self.sigmas)
        ignored_truth = ignored_truth[truth_order]
        matched = np.zeros((len(THRESHOLDS), len(order)), dtype=bool)
        ignored = np.zeros_like(matched)
        for row, threshold in enumerate(THRESHOLDS):
            taken = np.zeros(len(truth), dtype=bool)
            for column in range(len(order)):
                choice = _choose(similarity[column], taken, ignored_truth, threshold)
                if choice is not None:
                    taken[choice], matched[row, column] = True, True
                    ignored[row, column] = ignored_truth[choice]
        kept = np.asarray(scores, dtype=np.float64)[order]
        self._pictures.append(_Picture(kept, matched, ignored, int((~ignored_truth).sum())))

    def compute(self) -> dict[str, Any]:
        """ap, ap50, ap75 and ar as JSON values; None where no truth counts."""
        truths = sum(picture.truths for picture in self._pictures)
        if truths == 0:
            return {"oks_ap": None, "oks_ap50": None, "oks_ap75": None, "oks_ar": None}
        scores = np.concatenate([picture.scores for picture in self._pictures])
        order = np.argsort(-scores, kind="mergesort")
        matched = np.concatenate([picture.matched for picture in self._pictures], axis=1)[:, order]
        ignored = np.concatenate([picture.ignored for picture in self._pictures], axis=1)[:, order]
        precisions, recalls = [], []
        for row in range(len(THRESHOLDS)):
            hits = np.cumsum(matched[row] & ~ignored[row]).astype(np.float64)
            misses = np.cumsum(~matched[row] & ~ignored[row]).astype(np.float64)
            recall = hits / truths
            precision = np.maximum.accumulate((hits / (hits + misses + SPACING))[::-1])[::-1]
            place = np.searchsorted(recall, RECALLS, side="left")
            padded = np.append(precision, 0.0)
            precisions.append(float(padded[np.minimum(place, len(precision))].mean()))
            recalls.append(float(recall[-1]) if len(recall) else 0.0)
        return {
            "oks_ap": float(np.mean(precisions)),
            "oks_ap50": precisions[0],
            "oks_ap75": precisions[5],
            "oks_ar": float(np.mean(recalls)),
        }


def oks(
    detections: NDArray[np.floating],
    truth: NDArray[np.floating],
    areas: NDArray[np.floating],
    boxes: NDArray[np.floating],
    sigmas: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Similarities [P, I] of detections [P, K, 2+] to truths [I, K, 3]; see the module's docstring."""
    result = np.zeros((len(detections), len(truth)))
    if not result.size:
        return result
    variances = (2 * np.asarray(sigmas, dtype=np.float64)) ** 2
    found = np.asarray(detections, dtype=np.float64)
    for column, (points, area, box) in enumerate(zip(truth.astype(np.float64), areas, boxes, strict=True)):
        labelled = points[:, 2] > 0
        if labelled.any():
            dx, dy = found[..., 0] - points[:, 0], found[..., 1] - points[:, 1]
        else:
            x, y, width, height = box
            dx = np.maximum(0, x - width - found[..., 0]) + np.maximum(0, found[..., 0] - (x + 2 * width))
            dy = np.maximum(0, y - height - found[..., 1]) + np.maximum(0, found[..., 1] - (y + 2 * height))
        exponent = (dx**2 + dy**2) / variances / (area + SPACING) / 2
        counted = exponent[:, labelled] if labelled.any() else exponent
        result[:, column] = np.exp(-counted).mean(1)
    return result


def joint_boxes(truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Boxes [I, 4] (x, y, width, height) around the labelled joints, at least one pixel wide and high."""
    boxes = np.zeros((len(truth), 4))
    for row, points in enumerate(truth):
        seen = points[points[:, 2] > 0, :2]
        if len(seen):
            low = seen.min(0)
            boxes[row] = [*low, *np.maximum(seen.max(0) - low, 1.0)]
    return boxes


def _choose(
    similarity: NDArray[np.float64], taken: NDArray[np.bool_], ignored: NDArray[np.bool_], threshold: float
) -> int | None:
    """The free truth that a detection goes to; truths that count come first and win over ignored ones."""
    best = min(float(threshold), 1 - 1e-10)
    choice: int | None = None
    for column, value in enumerate(similarity):
        if taken[column]:
            continue
        if choice is not None and not ignored[choice] and ignored[column]:
            break
        if value >= best:
            best, choice = float(value), column
    return choice
