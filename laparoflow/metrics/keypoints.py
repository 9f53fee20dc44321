"""Key-point scores: how far, how many, how sure.

Per frame and joint, detections (x, y, score) are matched one to one to the true points. Two matchings are used:

    localisation   the n best-scored detections against the n true points, least total distance
                   -> distance error, RMSE, PCK(a) = share of true points within a * picture diagonal
    detection      all detections with score >= threshold; per pixel threshold t the largest matching within t
                   -> precision, recall, F1 at t

True points count when their visibility is above 0. A true point for which no detection is left counts as missed: it
lowers PCK and recall and stays out of RMSE, whose number of points is reported beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

PCK_FRACTIONS = (0.01, 0.02, 0.05, 0.1)
PIXEL_THRESHOLDS = (5.0, 10.0, 20.0, 40.0)


class KeypointScores:
    """Accumulates detections of joints, and gives the scores; precision and recall count those from a score on."""

    def __init__(self, joints: Sequence[str], score_threshold: float = 0.3) -> None:
        self.joints = tuple(joints)
        self.score_threshold = score_threshold
        self._squared = np.zeros(len(joints))
        self._points, self._located, self._detections = (np.zeros(len(joints), dtype=np.int64) for _ in range(3))
        self._within = np.zeros((len(joints), len(PCK_FRACTIONS)), dtype=np.int64)
        self._matched = np.zeros((len(joints), len(PIXEL_THRESHOLDS)), dtype=np.int64)

    def update(self, detections: Sequence[NDArray[np.floating]], truth: NDArray[np.floating], size: tuple[int, int]) -> None:
        """Counts one frame: detections [P, 3] (x, y, score) per joint, in any order, and its truth.

        The truth is [I, K, 3] (x, y, visibility). Both are in pixels of the source picture (height, width).
        """
        if len(detections) != len(self.joints) or truth.ndim != 3 or truth.shape[1:] != (len(self.joints), 3):
            raise ValueError(
                f"expected detections of {len(self.joints)} joints and truth [I, {len(self.joints)}, 3], "
                f"got {len(detections)} and {list(truth.shape)}"
            )
        diagonal = math.hypot(*size)
        for joint, found in enumerate(detections):
            points = truth[truth[:, joint, 2] > 0, joint, :2]
            found = found[np.argsort(-found[:, 2], kind="stable")]
            distances = cdist(found[: len(points), :2], points)
            best = distances[linear_sum_assignment(distances)]
            self._points[joint] += len(points)
            self._located[joint] += len(best)
            self._squared[joint] += (best**2).sum()
            self._within[joint] += [(best <= fraction * diagonal).sum() for fraction in PCK_FRACTIONS]
            sure = found[found[:, 2] >= self.score_threshold, :2]
            self._detections[joint] += len(sure)
            self._matched[joint] += [matching_size(sure, points, limit) for limit in PIXEL_THRESHOLDS]

    def compute(self) -> dict[str, Any]:
        """Scores as JSON values, over all joints and per joint; None where there is nothing to divide by."""
        overall = self._scores(list(range(len(self.joints))))
        return {**overall, "per_joint": {name: self._scores([k]) for k, name in enumerate(self.joints)}}

    def _scores(self, joints: list[int]) -> dict[str, Any]:
        counts = (self._points, self._located, self._detections)
        points, located, detections = (int(count[joints].sum()) for count in counts)
        within = dict(zip(PCK_FRACTIONS, self._within[joints].sum(0).tolist(), strict=True))
        matched = dict(zip(PIXEL_THRESHOLDS, self._matched[joints].sum(0).tolist(), strict=True))
        return {
            "pck": {f"{a:g}": _ratio(n, points) for a, n in within.items()},
            "rmse_px": math.sqrt(self._squared[joints].sum() / located) if located else None,
            "points": points,
            "points_located": located,
            "precision": {f"{t:g}": _ratio(n, detections) for t, n in matched.items()},
            "recall": {f"{t:g}": _ratio(n, points) for t, n in matched.items()},
            "f1": {f"{t:g}": _ratio(2 * n, detections + points) for t, n in matched.items()},
            "score_threshold": self.score_threshold,
        }


def matching_size(found: NDArray[np.floating], points: NDArray[np.floating], limit: float) -> int:
    """Size of the largest one-to-one matching of found [P, 2] to points [N, 2] with distances up to `limit`."""
    near = cdist(found, points) <= limit
    return int(near[linear_sum_assignment(near, maximize=True)].sum())


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
