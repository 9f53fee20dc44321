"""Segmentation from frozen features.

Training compares, per feature cell, the head's softmax with the shares of the classes among the cell's labelled
pixels; ignored pixels have no share. A prediction is the arg max of the head's maps, upsampled bilinearly to the
mask's own size, and is scored there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from laparoflow.datasets.samples import IGNORE_INDEX, Frame, SegmentationDataset, SegmentationSample
from laparoflow.datasets.sar_rarp50 import SarRarp50, folder_of
from laparoflow.datasets.splits import budget_count, label_subset
from laparoflow.metrics.sar_rarp50 import SarRarp50Score
from laparoflow.metrics.segmentation import MEAN_RULE, SegmentationScores
from laparoflow.metrics.surface import SurfaceScores
from laparoflow.probes.clusters import fit_kmeans, fit_knn
from laparoflow.probes.features import (
    FeatureEncoder,
    collect_features,
    feature_batches,
    grid_size,
    probe_size,
)
from laparoflow.probes.finetune import finetune
from laparoflow.probes.heads import Head, train_head
from laparoflow.probes.lacking import name_lacking, without_labels
from laparoflow.probes.saved import SavedHead, class_ids, weights_hash
from laparoflow.probes.settings import TRAINED, ProbeOptions, ProbeResult, ProbeRun
from laparoflow.progress import progress
from laparoflow.report.pictures import beside, mask_picture, pca_pictures

Predictor = Callable[[Tensor], Tensor]


def class_shares(mask: NDArray[np.int64], classes: int, grid: tuple[int, int]) -> Tensor:
    """Shares of the classes per cell: mask [H, W] -> float32 [C, h, w]; a cell sums to its labelled fraction."""
    labels = torch.from_numpy(mask)
    one_hot = F.one_hot(torch.where(labels == IGNORE_INDEX, classes, labels), classes + 1)[..., :classes]
    return F.adaptive_avg_pool2d(one_hot.permute(2, 0, 1).float(), grid)


def share_loss(maps: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy between softmax over classes and shares, [B, C, h, w] both, averaged over labelled area."""
    total = shares.sum().clamp_min(torch.finfo(shares.dtype).tiny)
    return -(shares * maps.log_softmax(1)).sum() / total


def fit_predictor(features: Tensor, shares: Tensor, options: ProbeOptions, seed: int) -> Predictor:
    """Fits the head that the options name; returns features [B, C, h, w] -> class scores [B, K, h, w]."""
    if options.head in ("knn", "kmeans"):
        features = features.float()
    if options.head == "knn":
        return fit_knn(features.to(options.device), shares.to(options.device), options.neighbours, seed)
    if options.head == "kmeans":
        return fit_kmeans(features.to(options.device), shares.to(options.device), seed)
    return train_head(features, shares, shares.shape[1], share_loss, options, seed)


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
    options = (options or ProbeOptions()).resolved()
    if train.classes != test.classes:
        raise ValueError(f"train and test must have the same classes, got {train.classes} and {test.classes}")
    encoders = dict(encoder) if isinstance(encoder, Mapping) else {TRAINED: encoder}
    subsets = {
        (budget_count(len(train), budget), seed): label_subset(len(train), budget, seed)
        for budget in options.labels
        for seed in options.seeds
    }
    pool = sorted({index for subset in subsets.values() for index in subset})
    shown = max(subsets, key=lambda key: (key[0], -options.seeds.index(key[1])))
    source = train[pool[0]].mask.shape
    result = ProbeResult("segmentation", test.classes, (0, 0), [])
    amounts: dict[str, Tensor] = {}
    for name, backbone in encoders.items():
        size = probe_size(source, backbone.feature_stride, options.image_size)
        result.image_size = size
        grid = grid_size(size, backbone.feature_stride)

        def target(sample: SegmentationSample, grid: tuple[int, int] = grid) -> Tensor:
            shares = class_shares(sample.mask, len(train.classes), grid)
            amounts[sample.name] = shares.sum((1, 2))
            return shares

        if options.finetune:
            runs = []
            for (count, seed), subset in subsets.items():
                labelled = train.select(subset)
                network, head = finetune(backbone, labelled, target, share_loss, size, len(train.classes), options, seed)
                runs += _evaluate(name, network, {(count, seed): head}, test, size, options, result, shown)
        else:
            with progress(f"{name}: labelled frames", len(pool)) as advance:
                features, shares = collect_features(
                    backbone, train.select(pool), size, options.batch_size, options.device, target, advance
                )
            name_lacking(without_labels(result.names, amounts.values()), result.names, train, "the labelled frames")
            predictors: dict[tuple[int, int], Predictor] = {}
            with progress(f"{name}: heads", len(subsets)) as advance:
                for (count, seed), subset in subsets.items():
                    rows = torch.tensor([pool.index(index) for index in subset])
                    predictors[count, seed] = fit_predictor(features[rows], shares[rows], options, seed)
                    advance(1)
            stride, digest = backbone.feature_stride, weights_hash(backbone)
            result.heads += [
                SavedHead(head, result.task, result.names, name, *key, options.head, size, stride, digest)
                for key, head in predictors.items()
                if isinstance(head, Head)
            ]
            runs = _evaluate(name, backbone, predictors, test, size, options, result, shown)
        for run in runs:
            run.train_frames = [train.frames[i].name for i in subsets[run.labels, run.seed]]
            run.metrics["without_labels"] = without_labels(result.names, (amounts[name] for name in run.train_frames))
        result.runs += runs
    lacking = without_labels(result.names, amounts.values())
    result.warnings += name_lacking(lacking, result.names, train, f"the {len(amounts)} labelled frames")
    result.warnings = list(dict.fromkeys([*train.warnings, *test.warnings, *result.warnings]))
    return result


@torch.no_grad()
def _evaluate(
    name: str,
    encoder: FeatureEncoder,
    predictors: Mapping[tuple[int, int], Predictor],
    test: SegmentationDataset,
    size: tuple[int, int],
    options: ProbeOptions,
    result: ProbeResult,
    shown: tuple[int, int],
) -> list[ProbeRun]:
    """One pass over the test frames for all heads; draws the pictures of the head `shown`."""
    scores = {key: _Scores(test, options.nsd_tolerance) for key in predictors}
    drawn = {int(i) for i in np.linspace(0, len(test) - 1, min(options.pictures, len(test)))}
    shown_features: list[Tensor] = []
    position = 0
    with progress(f"{name}: test frames", len(test)) as advance:
        for samples, features in feature_batches(encoder, test, size, options.batch_size, options.device):
            maps = {key: predict(features) for key, predict in predictors.items()}
            for row, sample in enumerate(samples):
                for key, batch in maps.items():
                    prediction = class_ids(batch[row], sample.mask.shape)
                    scores[key].update(prediction, sample, test.frames[position])
                    if key == shown and position in drawn:
                        picture = mask_picture(sample.image, sample.mask, prediction.numpy(), len(test.classes))
                        result.pictures[f"{name}_{sample.name}"] = picture
                        shown_features.append(features[row].cpu())
                position += 1
            advance(len(samples))
    if shown_features:
        result.pictures[f"{name}_features_pca"] = beside(pca_pictures(torch.stack(shown_features)))
    runs = [ProbeRun(name, count, seed, scores[count, seed].compute(), []) for count, seed in predictors]
    lacking = runs[0].metrics["classes_without_truth"]
    result.warnings += [
        f"{text}: {MEAN_RULE}" for text in name_lacking(lacking, result.names, test, f"the {len(test)} test frames")
    ]
    return runs


class _Scores:
    """All scores of one head."""

    def __init__(self, test: SegmentationDataset, tolerance: float | None) -> None:
        self._overlap = SegmentationScores(test.classes)
        self._surface = None if tolerance is None else SurfaceScores(test.classes, tolerance)
        self._challenge = SarRarp50Score() if test.name == SarRarp50.name else None

    def update(self, prediction: Tensor, sample: SegmentationSample, frame: Frame) -> None:
        self._overlap.update(prediction, torch.from_numpy(sample.mask), sample.video)
        if self._surface is not None:
            self._surface.update(prediction.numpy(), sample.mask, IGNORE_INDEX)
        if self._challenge is not None:
            self._challenge.update(prediction.numpy(), sample.mask, folder_of(frame))

    def compute(self) -> dict[str, Any]:
        scores = self._overlap.compute()
        if self._surface is not None:
            scores |= self._surface.compute()
        if self._challenge is not None:
            scores["sar_rarp50"] = self._challenge.compute()
        return scores
