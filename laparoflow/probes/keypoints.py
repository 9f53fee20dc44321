"""Key points from frozen features by heat maps: one map per joint, as many peaks as there are instruments.

The score from which a detection counts is chosen on the labelled pictures (the one of best F1 within 5 % of the
diagonal), never on the test part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from laparoflow.datasets.samples import Frame, KeypointDataset, KeypointSample
from laparoflow.metrics.keypoints import KeypointScores, matching_size
from laparoflow.metrics.oks import OksAveragePrecision
from laparoflow.probes.features import FeatureEncoder
from laparoflow.probes.heatmaps import focal_loss, heatmap_size, heatmap_target
from laparoflow.probes.instruments import group_instruments, instrument_areas
from laparoflow.probes.probe import Probe
from laparoflow.probes.saved import SavedHead
from laparoflow.probes.settings import ProbeOptions, ProbeResult
from laparoflow.report.pictures import keypoint_picture

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
    """Scores frozen features on key points; see :func:`laparoflow.probes.segmentation.probe_segmentation`."""
    options = options or ProbeOptions()
    if options.head not in ("linear", "conv"):
        raise ValueError(f"head must be linear or conv for key points, got {options.head!r}")
    if train.joints != test.joints:
        raise ValueError(f"train and test must have the same joints, got {train.joints} and {test.joints}")
    return KeypointProbe(test.joints, train, test, options).run(encoder)


class KeypointProbe(Probe):
    """Joints of instruments."""

    task = "keypoints"
    loss = focal_loss
    bias = PRIOR
    mirror = False

    def __init__(self, names: Sequence[str], train: KeypointDataset, test: KeypointDataset, options: ProbeOptions) -> None:
        super().__init__(names, train, test, options)
        self._truth: dict[str, tuple[NDArray[np.float32], tuple[int, int]]] = {}

    def target(self, sample: KeypointSample) -> tuple[Tensor, NDArray[np.int64]]:
        self._truth[sample.name] = sample.keypoints, _size(sample)
        cells = heatmap_size(self.size, self.stride)
        target = heatmap_target(sample.keypoints, _size(sample), cells, self.options.heatmap_sigma * math.hypot(*cells))
        return target, (sample.keypoints[..., 2] > 0).sum(0)

    def threshold(self, head: SavedHead, features: Callable[[], Tensor], frames: Sequence[str]) -> float:
        """The detection threshold of a head, from the pictures that it was trained on."""
        truth, sizes = zip(*(self._truth[name] for name in frames), strict=True)
        radius = CALIBRATION_RADIUS * math.hypot(*next(iter(self._truth.values()))[1])
        found: list[Detections] = []
        for batch in features().split(self.options.batch_size):
            found += head.find(batch.float().to(self.options.device), sizes[len(found) : len(found) + len(batch)])
        return best_threshold(found, truth, radius)

    def scores(self, threshold: float | None) -> KeypointScore:
        return KeypointScore(self.result.names, threshold or 0.0, self.options.oks_sigmas)

    def picture(self, prediction: Detections, sample: KeypointSample, head: SavedHead) -> NDArray[np.uint8]:
        return keypoint_picture(sample.image, sample.keypoints, head.sure(prediction))

    def lacking(self, metrics: Mapping[str, Any]) -> list[str]:
        return [joint for joint, found in metrics["per_joint"].items() if not found["points"]]


class KeypointScore:
    """Distances, counts, and the similarity of whole instruments."""

    def __init__(self, joints: Sequence[str], threshold: float, sigmas: Sequence[float] | None) -> None:
        self._points = KeypointScores(joints, threshold)
        self._similarity = OksAveragePrecision(len(joints), sigmas)

    def update(self, prediction: Detections, sample: KeypointSample, frame: Frame) -> None:
        self._points.update(prediction, sample.keypoints, _size(sample))
        areas = instrument_areas(sample.keypoints, _size(sample))
        self._similarity.update(*group_instruments(prediction), sample.keypoints, areas)

    def compute(self) -> dict[str, Any]:
        return self._points.compute() | self._similarity.compute()


def _size(sample: KeypointSample) -> tuple[int, int]:
    return sample.image.shape[0], sample.image.shape[1]


def best_threshold(found: Sequence[Detections], truth: Sequence[NDArray[np.float32]], radius: float) -> float:
    """The score whose detections (per picture and joint [P, 3]) have the best F1 within `radius` source pixels of the truth.

    The truth is [I, K, 3] per picture; of scores that are equally good the higher one is taken.
    """
    pairs = [
        (detected, keypoints[keypoints[:, joint, 2] > 0, joint, :2])
        for picture, keypoints in zip(found, truth, strict=True)
        for joint, detected in enumerate(picture)
    ]
    scores = np.unique(np.concatenate([detected[:, 2] for detected, _ in pairs] or [np.zeros(0)]))
    if len(scores) == 0:
        return 0.5

    def f1(threshold: float) -> float:
        sure = [(detected[detected[:, 2] >= threshold, :2], there) for detected, there in pairs]
        matched = sum(matching_size(detected, there, radius) for detected, there in sure)
        return 2 * matched / max(1, sum(len(detected) + len(there) for detected, there in sure))

    candidates = np.quantile(scores, np.linspace(0, 1, 41), method="nearest")
    return float(max(candidates[::-1], key=f1))
