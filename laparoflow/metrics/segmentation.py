"""Segmentation scores from confusion counts.

    iou_c  = tp_c / (tp_c + fp_c + fn_c)         dice_c = 2 tp_c / (2 tp_c + fp_c + fn_c)

Rules: pixels labelled `IGNORE_INDEX` count nowhere. A class that is in neither truth nor prediction is absent: its
score is None and it is left out of the mean. A class that is predicted but not there scores 0 and is in the mean.
Counts are summed over all frames before dividing; the per-video figures sum over each video's frames, and
"mean over videos" is the plain mean of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from laparoflow.datasets.samples import IGNORE_INDEX

MEAN_RULE = (
    "means are over the classes that occur in truth or prediction of the test frames: a class in neither has no score, a "
    "class that is predicted but in no truth scores 0"
)


class SegmentationScores:
    """Accumulates predictions and gives the scores; ``classes`` are names, id 0 first."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._by_video: dict[str, Tensor] = {}

    def update(self, prediction: Tensor, truth: Tensor, video: str) -> None:
        """Counts one frame: class ids, integer [H, W], in the truth or IGNORE_INDEX, and the name of its video."""
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction {list(prediction.shape)} and truth {list(truth.shape)} must have one shape")
        counts = multiclass_confusion_matrix(
            prediction.flatten(), truth.flatten(), num_classes=len(self.classes), ignore_index=IGNORE_INDEX
        )
        self._by_video[video] = self._by_video.get(video, torch.zeros_like(counts)) + counts

    @property
    def confusion(self) -> Tensor:
        """[C, C] pixel counts over all frames, rows truth, columns prediction."""
        if not self._by_video:
            return torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)
        return torch.stack(list(self._by_video.values())).sum(0)

    def compute(self) -> dict[str, Any]:
        """Scores as JSON values: mean_iou, mean_dice, pixel_accuracy, per class, per video, mean over videos,
        and confusion (pixel counts, rows truth)."""
        scores = scores_from_confusion(self.confusion, self.classes)
        videos = {video: scores_from_confusion(counts, self.classes) for video, counts in self._by_video.items()}
        return {
            **scores,
            "confusion": self.confusion.tolist(),
            "mean_iou_over_videos": mean_of([entry["mean_iou"] for entry in videos.values()]),
            "per_video": {video: entry["mean_iou"] for video, entry in sorted(videos.items())},
        }


def scores_from_confusion(confusion: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Scores of one confusion matrix [C, C] (rows truth); see the module's docstring for the rules."""
    counts = confusion.double()
    hit = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hit
    total = counts.sum()
    iou = [None if u == 0 else h / u for h, u in zip(hit.tolist(), union.tolist(), strict=True)]
    dice = [None if u == 0 else 2 * h / (u + h) for h, u in zip(hit.tolist(), union.tolist(), strict=True)]
    return {
        "mean_iou": mean_of(iou),
        "mean_dice": mean_of(dice),
        "pixel_accuracy": float(hit.sum() / total) if total > 0 else None,
        "classes_in_mean": [name for name, value in zip(classes, iou, strict=True) if value is not None],
        "classes_without_truth": [name for name, n in zip(classes, counts.sum(1).tolist(), strict=True) if n == 0],
        "per_class_iou": dict(zip(classes, iou, strict=True)),
        "per_class_dice": dict(zip(classes, dice, strict=True)),
    }


def frame_confusions(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixel counts of each frame, int64 [n, C, C], rows truth, of class ids [n, H, W]."""
    return torch.stack([
        multiclass_confusion_matrix(found, mask, num_classes=classes, ignore_index=IGNORE_INDEX)
        for found, mask in zip(prediction, truth, strict=True)
    ])  # fmt: skip


def resampled_mean_iou(counts: NDArray[Any], resamples: int, seed: int) -> NDArray[np.float64]:
    """Mean IoU [resamples] with the frames drawn again, with replacement, the same ones for one seed and number of frames.

    ``counts`` are pixel counts [n, C, C] of each frame, rows truth.
    """
    n = len(counts)
    again = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=resamples)
    summed = np.einsum("rn,nij->rij", again, np.asarray(counts, np.float64))
    hit = np.diagonal(summed, axis1=1, axis2=2)
    union = summed.sum(1) + summed.sum(2) - hit
    return np.nanmean(np.where(union > 0, hit / np.maximum(union, 1), np.nan), axis=1)


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None where all are."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
