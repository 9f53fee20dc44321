"""Segmentation from frozen features.

Training compares, per feature cell, the head's softmax with the shares of the classes among the cell's labelled
pixels; ignored pixels have no share. A prediction is the arg max of the head's maps, upsampled bilinearly to the
mask's own size (saved.py), and is scored there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from laparoflow.datasets.samples import IGNORE_INDEX, Frame, SegmentationDataset, SegmentationSample
from laparoflow.datasets.sar_rarp50 import SarRarp50, folder_of
from laparoflow.metrics.sar_rarp50 import SarRarp50Score
from laparoflow.metrics.segmentation import MEAN_RULE, SegmentationScores
from laparoflow.metrics.surface import SurfaceScores
from laparoflow.probes.clusters import fit_kmeans, fit_knn
from laparoflow.probes.features import FeatureEncoder, grid_size
from laparoflow.probes.heads import Head, train_head
from laparoflow.probes.probe import Maps, Probe
from laparoflow.probes.saved import SavedHead
from laparoflow.probes.settings import ProbeOptions, ProbeResult
from laparoflow.report.pictures import mask_picture


def class_shares(mask: NDArray[np.int64], classes: int, grid: tuple[int, int]) -> Tensor:
    """Shares of the classes per cell: mask [H, W] -> float32 [C, h, w]; a cell sums to its labelled fraction."""
    labels = torch.from_numpy(mask)
    one_hot = F.one_hot(torch.where(labels == IGNORE_INDEX, classes, labels), classes + 1)[..., :classes]
    return F.adaptive_avg_pool2d(one_hot.permute(2, 0, 1).float(), grid)


def share_loss(maps: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy between softmax over classes and shares, [B, C, h, w] both, averaged over labelled area."""
    total = shares.sum().clamp_min(torch.finfo(shares.dtype).tiny)
    return -(shares * maps.log_softmax(1)).sum() / total


def fit_predictor(features: Tensor, shares: Tensor, options: ProbeOptions, seed: int) -> Maps:
    """Fits the head that the options name to features [n, C, h, w] and class shares [n, K, h, w] of the labelled frames.

    It maps features [B, C, h, w] to class scores [B, K, h, w]; every head sees features scaled per channel.
    """
    if options.head not in ("knn", "kmeans"):
        return train_head(features, shares, shares.shape[1], share_loss, options, seed)
    scale = Head(features, shares.shape[1], "linear").to(options.device).standardise  # as a linear head sees them
    scaled, shares = scale(features.to(options.device).float()), shares.to(options.device)
    found = fit_knn(scaled, shares, options.neighbours, seed) if options.head == "knn" else fit_kmeans(scaled, shares, seed)
    return lambda batch: found(scale(batch.float()))


def probe_segmentation(
    encoder: FeatureEncoder | Mapping[str, FeatureEncoder],
    train: SegmentationDataset,
    test: SegmentationDataset,
    options: ProbeOptions | None = None,
) -> ProbeResult:
    """Scores frozen features on segmentation.

    Args:
        encoder: the backbone, or several by name (for instance {"trained": a, "random": b}), all in eval mode.
        train: frames that labels are drawn from.
        test: frames to score on, with the same classes.
        options: budgets, seeds, head.

    Returns:
        One run per backbone, budget and seed, and pictures of predictions and features.

    Raises:
        ValueError: the classes differ, a budget exceeds the training frames, or a size does not fit the stride.
    """
    if train.classes != test.classes:
        raise ValueError(f"train and test must have the same classes, got {train.classes} and {test.classes}")
    return SegmentationProbe(test.classes, train, test, options or ProbeOptions()).run(encoder)


class SegmentationProbe(Probe):
    """Classes of pixels."""

    task = "segmentation"
    loss = share_loss
    lacking_rule = f": {MEAN_RULE}"
    test: SegmentationDataset

    def target(self, sample: SegmentationSample) -> tuple[Tensor, Tensor]:
        shares = class_shares(sample.mask, len(self.result.names), grid_size(self.size, self.stride))
        return shares, shares.sum((1, 2))

    def fit(self, features: Tensor, targets: Tensor, seed: int) -> Maps:
        return fit_predictor(features, targets, self.options, seed)

    def scores(self, threshold: float | None) -> SegmentationScore:
        return SegmentationScore(self.test, self.options.nsd_tolerance)

    def picture(self, prediction: NDArray[np.int64], sample: SegmentationSample, head: SavedHead) -> NDArray[np.uint8]:
        return mask_picture(sample.image, sample.mask, prediction, len(self.result.names))

    def lacking(self, metrics: Mapping[str, Any]) -> list[str]:
        return metrics["classes_without_truth"]


class SegmentationScore:
    """Overlap, and surface distance and challenge score where they are asked for."""

    def __init__(self, test: SegmentationDataset, tolerance: float | None) -> None:
        self._overlap = SegmentationScores(test.classes)
        self._surface = None if tolerance is None else SurfaceScores(test.classes, tolerance)
        self._challenge = SarRarp50Score() if test.name == SarRarp50.name else None

    def update(self, prediction: NDArray[np.int64], sample: SegmentationSample, frame: Frame) -> None:
        self._overlap.update(torch.from_numpy(prediction), torch.from_numpy(sample.mask), sample.video)
        if self._surface is not None:
            self._surface.update(prediction, sample.mask, IGNORE_INDEX)
        if self._challenge is not None:
            self._challenge.update(prediction, sample.mask, folder_of(frame))

    def compute(self) -> dict[str, Any]:
        scores = self._overlap.compute()
        if self._surface is not None:
            scores |= self._surface.compute()
        if self._challenge is not None:
            scores["sar_rarp50"] = self._challenge.compute()
        return scores
