"""The segmentation score of the SAR-RARP50 challenge, as its toolkit computes it.

Per frame, the 9 classes without background are scored by IoU and by NSD with tau = 10 px; a class that neither mask
has scores 1 in both, a class that only one has scores 0 in IoU and in NSD; a frame without a prediction scores 0. Frame
means are averaged over each video, videos over the set, and

    score = sqrt(mIoU * mNSD)
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laparoflow.metrics.surface import surface_distance

CLASSES = 9
TOLERANCE = 10.0


def frame_scores(prediction: NDArray[np.integer] | None, truth: NDArray[np.integer]) -> tuple[float, float]:
    """(mean IoU, mean NSD) of one frame; class ids [H, W] with 0 the background, None for a frame without prediction."""
    if np.max(truth, initial=0) > CLASSES or (prediction is not None and np.max(prediction, initial=0) > CLASSES):
        raise ValueError(f"class ids must be 0 to {CLASSES}")
    if prediction is None:
        return 0.0, 0.0
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} must have one shape")
    iou = nsd = 0.0
    for label in range(1, CLASSES + 1):
        found, there = prediction == label, truth == label
        union = int((found | there).sum())
        iou += int((found & there).sum()) / union if union else 1.0
        distance = surface_distance(found, there, TOLERANCE)
        nsd += 1.0 if distance is None else distance
    return iou / CLASSES, nsd / CLASSES


class SarRarp50Score:
    """Accumulates frames and gives the challenge's score."""

    def __init__(self) -> None:
        self._videos: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def update(self, prediction: NDArray[np.integer] | None, truth: NDArray[np.integer], folder: str) -> None:
        """Counts one frame of the video folder; see `frame_scores`."""
        self._videos[folder].append(frame_scores(prediction, truth))

    def compute(self) -> dict[str, Any]:
        """score, mean_iou, mean_nsd and per_video as JSON values; None before any frame."""
        if not self._videos:
            return {"score": None, "mean_iou": None, "mean_nsd": None, "per_video": {}}
        videos = {name: np.mean(values, axis=0).tolist() for name, values in sorted(self._videos.items())}
        iou, nsd = np.mean(list(videos.values()), axis=0).tolist()
        per_video = {name: {"mean_iou": values[0], "mean_nsd": values[1]} for name, values in videos.items()}
        return {"score": math.sqrt(iou * nsd), "mean_iou": iou, "mean_nsd": nsd, "per_video": per_video}
