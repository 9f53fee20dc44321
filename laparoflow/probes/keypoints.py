"""Key points from frozen features by heat maps: one map per joint, as many peaks as there are instruments.

The score from which a detection counts is chosen on the labelled pictures (the one of best F1 within 5 % of the
diagonal), never on the test part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laparoflow.datasets.samples import KeypointDataset, KeypointSample
from laparoflow.datasets.splits import budget_count, label_subset
from laparoflow.metrics.keypoints import KeypointScores, matching_size
from laparoflow.metrics.oks import OksAveragePrecision
from laparoflow.probes.features import (
    FeatureEncoder,
    collect_features,
    diagonal,
    feature_batches,
    probe_size,
)
from laparoflow.probes.finetune import finetune
from laparoflow.probes.heads import Head, train_head
from laparoflow.probes.heatmaps import (
    detect,
    focal_loss,
    heatmap_size,
    heatmap_target,
    upsample,
)
from laparoflow.probes.instruments import group_instruments, instrument_areas
from laparoflow.probes.lacking import name_lacking, without_labels
from laparoflow.probes.saved import SavedHead, weights_hash
from laparoflow.probes.settings import TRAINED, ProbeOptions, ProbeResult, ProbeRun
from laparoflow.progress import progress
from laparoflow.report.pictures import beside, keypoint_picture, pca_pictures

PRIOR = -4.0
"""Initial bias of the maps: peaks are rare."""
CALIBRATION_RADIUS = 0.05
Detections = list[NDArray[np.float64]]


def probe_keypoints(
    encoder: FeatureEncoder | Mapping[str, FeatureEncoder],
    train: KeypointDataset,
    test: KeypointDataset,
    options: ProbeOptions | None = None,
) -> ProbeResult:
    """Scores frozen features on key points.

    Args:
        encoder: the backbone, or several by name, all in eval mode.
        train: frames that labels are drawn from.
        test: frames to score on, with the same joints.
        options: budgets, seeds, head ("linear" or "conv").

    Returns:
        One run per backbone, budget and seed, and pictures of detections and features.

    Raises:
        ValueError: the joints differ, the head has no heat maps, a budget exceeds the training frames, or a size
            does not fit the stride.
    """
    options = (options or ProbeOptions()).resolved()
    if options.head not in ("linear", "conv"):
        raise ValueError(f"head must be linear or conv for key points, got {options.head!r}")
    if train.joints != test.joints:
        raise ValueError(f"train and test must have the same joints, got {train.joints} and {test.joints}")
    encoders = dict(encoder) if isinstance(encoder, Mapping) else {TRAINED: encoder}
    subsets = {
        (budget_count(len(train), budget), seed): label_subset(len(train), budget, seed)
        for budget in options.labels
        for seed in options.seeds
    }
    pool = sorted({index for subset in subsets.values() for index in subset})
    labelled = [train[index] for index in pool]
    result = ProbeResult("keypoints", test.joints, (0, 0), [])
    amounts: dict[str, NDArray[np.int64]] = {}
    shown = max(subsets, key=lambda key: (key[0], -options.seeds.index(key[1])))
    for name, backbone in encoders.items():
        size = probe_size(_size(labelled[0]), backbone.feature_stride, options.image_size)
        cells = heatmap_size(size, backbone.feature_stride)
        sigma = options.heatmap_sigma * diagonal(cells)
        result.image_size = size

        def target(sample: KeypointSample, cells: tuple[int, int] = cells, sigma: float = sigma) -> Tensor:
            amounts[sample.name] = (sample.keypoints[..., 2] > 0).sum(0)
            return heatmap_target(sample.keypoints, _size(sample), cells, sigma)

        radius = CALIBRATION_RADIUS * diagonal(_size(labelled[0]))
        runs: list[ProbeRun] = []
        if options.finetune:
            for (count, seed), subset in subsets.items():
                chosen = train.select(subset)
                network, head = finetune(
                    backbone, chosen, target, focal_loss, size, len(train.joints), options, seed, PRIOR, mirror=False
                )
                batches = feature_batches(network, chosen, size, options.batch_size, options.device)
                features = torch.cat([batch.cpu() for _, batch in batches])
                threshold = _calibrate(head, features, [labelled[pool.index(i)] for i in subset], cells, options, radius)
                heads = {(count, seed): (head, threshold)}
                runs += _evaluate(name, network, heads, test, size, cells, options, result, shown)
        else:
            with progress(f"{name}: labelled frames", len(pool)) as advance:
                features, targets = collect_features(
                    backbone, train.select(pool), size, options.batch_size, options.device, target, advance
                )
            heads = {}
            with progress(f"{name}: heads", len(subsets)) as advance:
                for (count, seed), subset in subsets.items():
                    rows = [pool.index(index) for index in subset]
                    head = train_head(features[rows], targets[rows], len(train.joints), focal_loss, options, seed, PRIOR)
                    samples = [labelled[row] for row in rows]
                    heads[count, seed] = head, _calibrate(head, features[rows], samples, cells, options, radius)
                    advance(1)
            stride, digest = backbone.feature_stride, weights_hash(backbone)
            result.heads += [
                SavedHead(head, result.task, result.names, name, *key, options.head, size, stride, digest, threshold,
                          options.max_instances)
                for key, (head, threshold) in heads.items()
            ]  # fmt: skip
            runs = _evaluate(name, backbone, heads, test, size, cells, options, result, shown)
        for run in runs:
            run.train_frames = [train.frames[i].name for i in subsets[run.labels, run.seed]]
            run.metrics["without_labels"] = without_labels(result.names, (amounts[name] for name in run.train_frames))
        result.runs += runs
    lacking = without_labels(result.names, amounts.values())
    result.warnings += name_lacking(lacking, result.names, train, f"the {len(amounts)} labelled frames")
    result.warnings = list(dict.fromkeys([*train.warnings, *test.warnings, *result.warnings]))
    return result


@torch.no_grad()
def _detections(
    head: Head,
    features: Tensor,
    sources: Sequence[tuple[int, int]],
    cells: tuple[int, int],
    options: ProbeOptions,
) -> list[Detections]:
    """Per picture, per joint [P, 3]; features [B, C, h, w]."""
    found = []
    for start in range(0, len(features), options.batch_size):
        batch = features[start : start + options.batch_size].to(options.device)
        maps = upsample(head(batch), cells).cpu()
        for row, source in zip(maps, sources[start:], strict=False):
            found.append(detect(row, source, options.max_instances))
    return found


def _calibrate(
    head: Head,
    features: Tensor,
    samples: Sequence[KeypointSample],
    cells: tuple[int, int],
    options: ProbeOptions,
    radius: float,
) -> float:
    """The detection threshold of a head, from the pictures that it was trained on."""
    found = _detections(head, features, [_size(sample) for sample in samples], cells, options)
    return best_threshold(found, [sample.keypoints for sample in samples], radius)


def _size(sample: KeypointSample) -> tuple[int, int]:
    """(height, width) of a picture."""
    return sample.image.shape[0], sample.image.shape[1]


def best_threshold(found: Sequence[Detections], truth: Sequence[NDArray[np.float32]], radius: float) -> float:
    """The score whose detections have the best F1 within `radius` pixels; the higher one of equals.

    Args:
        found: per picture, per joint [P, 3].
        truth: per picture [I, K, 3].
        radius: in source pixels.
    """
    scores = np.unique(np.concatenate([joint[:, 2] for picture in found for joint in picture] or [np.zeros(0)]))
    if len(scores) == 0:
        return 0.5
    candidates = np.quantile(scores, np.linspace(0, 1, 41), method="nearest")
    best, best_f1 = float(candidates[-1]), -1.0
    for threshold in candidates[::-1]:
        matched = detections = points = 0
        for picture, keypoints in zip(found, truth, strict=True):
            for joint, detected in enumerate(picture):
                there = keypoints[keypoints[:, joint, 2] > 0, joint, :2]
                sure = detected[detected[:, 2] >= threshold, :2]
                matched += matching_size(sure, there, radius)
                detections += len(sure)
                points += len(there)
        f1 = 2 * matched / max(1, detections + points)
        if f1 > best_f1:
            best, best_f1 = float(threshold), f1
    return best


@torch.no_grad()
def _evaluate(
    name: str,
    encoder: FeatureEncoder,
    heads: Mapping[tuple[int, int], tuple[Head, float]],
    test: KeypointDataset,
    size: tuple[int, int],
    cells: tuple[int, int],
    options: ProbeOptions,
    result: ProbeResult,
    shown: tuple[int, int],
) -> list[ProbeRun]:
    """One pass over the test frames for all heads; draws the pictures of the head `shown`."""
    scores = {key: KeypointScores(test.joints, threshold) for key, (_, threshold) in heads.items()}
    drawn = {int(i) for i in np.linspace(0, len(test) - 1, min(options.pictures, len(test)))}
    similarity = {key: OksAveragePrecision(len(test.joints), options.oks_sigmas) for key in heads}
    shown_features: list[Tensor] = []
    position = 0
    with progress(f"{name}: test frames", len(test)) as advance:
        for samples, features in feature_batches(encoder, test, size, options.batch_size, options.device):
            sources = [_size(sample) for sample in samples]
            for key, (head, threshold) in heads.items():
                for row, detections in enumerate(_detections(head, features, sources, cells, options)):
                    sample = samples[row]
                    scores[key].update(detections, sample.keypoints, sources[row])
                    areas = instrument_areas(sample.keypoints, sources[row])
                    similarity[key].update(*group_instruments(detections, 0.0), sample.keypoints, areas)
                    if key == shown and position + row in drawn:
                        sure = [joint[joint[:, 2] >= threshold] for joint in detections]
                        result.pictures[f"{name}_{sample.name}"] = keypoint_picture(sample.image, sample.keypoints, sure)
                        shown_features.append(features[row].cpu())
            position += len(samples)
            advance(len(samples))
    if shown_features:
        result.pictures[f"{name}_features_pca"] = beside(pca_pictures(torch.stack(shown_features)))
    runs = [
        ProbeRun(name, *key, metrics=scores[key].compute() | similarity[key].compute(), train_frames=[]) for key in heads
    ]
    lacking = [joint for joint, found in runs[0].metrics["per_joint"].items() if not found["points"]]
    result.warnings += name_lacking(lacking, result.names, test, f"the {len(test)} test frames")
    return runs
