"""What all probes share: labelled frames are drawn, a head is trained on each draw, and all are scored in one pass.

`Probe` is the scaffold; `segmentation.py` and `keypoints.py` say what a target and a score are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from laparoflow.datasets.samples import DatasetError, FrameDataset
from laparoflow.datasets.splits import budget_count, label_subset
from laparoflow.probes.features import FeatureEncoder, collect_features, feature_batches, probe_size
from laparoflow.probes.finetune import finetune
from laparoflow.probes.heads import Head, train_head
from laparoflow.probes.saved import SavedHead, weights_hash
from laparoflow.probes.settings import TRAINED, ProbeOptions, ProbeResult, ProbeRun
from laparoflow.progress import progress
from laparoflow.report.pictures import beside, pca_pictures

Key = tuple[int, int]
"""Number of labelled frames, and seed."""
Maps = Callable[[Tensor], Tensor]
"""Features [B, C, h, w] to maps [B, K, h, w]."""


class Probe(ABC):
    """A probe of one kind of label: classes or joints by name, drawn from the frames to train, scored on those to test.

    Attributes:
        size: (height, width) of the pictures of the backbone that is probed now, and `stride` of its features.
        amounts: labels per name of each frame whose target was made, by the frame's name.
    """

    task: ClassVar[str]
    loss: ClassVar[Callable[[Tensor, Tensor], Tensor]]
    bias: ClassVar[float] = 0.0
    mirror: ClassVar[bool] = True
    lacking_rule: ClassVar[str] = ""
    size: tuple[int, int]
    stride: int

    def __init__(
        self, names: Sequence[str], train: FrameDataset[Any], test: FrameDataset[Any], options: ProbeOptions
    ) -> None:
        self.train, self.test, self.options = train, test, options.resolved()
        self.result = ProbeResult(self.task, tuple(names), (0, 0), [])
        self.subsets: dict[Key, Sequence[int]] = {
            (budget_count(len(train), budget), seed): label_subset(len(train), budget, seed)
            for budget in options.labels
            for seed in options.seeds
        }
        self.shown = max(self.subsets, key=lambda key: (key[0], -options.seeds.index(key[1])))
        self.amounts: dict[str, Any] = {}

    @abstractmethod
    def target(self, sample: Any) -> tuple[Tensor, Any]:
        """What `loss` compares the maps of a frame with, and the amount of label of each name."""

    @abstractmethod
    def scores(self, threshold: float | None) -> Any:
        """Fresh scores of one head, with `update(prediction, sample, frame)` and `compute()`."""

    @abstractmethod
    def picture(self, prediction: Any, sample: Any, head: SavedHead) -> Any:
        """Picture, truth and prediction beside each other, RGB uint8 [H, W, 3]."""

    @abstractmethod
    def lacking(self, metrics: Mapping[str, Any]) -> list[str]:
        """The names without a label in the test frames, by their scores."""

    def fit(self, features: Tensor, targets: Tensor, seed: int) -> Maps:
        """The head that the options name."""
        return train_head(features, targets, len(self.result.names), type(self).loss, self.options, seed, self.bias)

    def threshold(self, head: SavedHead, features: Callable[[], Tensor], frames: Sequence[str]) -> float | None:
        """What a detection's score must reach, chosen on the labelled frames; None where there is none."""
        return None

    def run(self, encoder: FeatureEncoder | Mapping[str, FeatureEncoder]) -> ProbeResult:
        """Probes a backbone, or several by name, all in eval mode."""
        result = self.result
        source = self.train[min(min(subset) for subset in self.subsets.values())].image.shape[:2]
        for name, backbone in (encoder if isinstance(encoder, Mapping) else {TRAINED: encoder}).items():
            self.stride = backbone.feature_stride
            self.size = result.image_size = probe_size(source, self.stride, self.options.image_size)
            runs = self._finetuned(name, backbone) if self.options.finetune else self._frozen(name, backbone)
            for run in runs:
                run.train_frames = self._frames(self.subsets[run.labels, run.seed])
                run.metrics["without_labels"] = self._without(run.train_frames)
            result.runs += runs
        lacking = self._without(self.amounts)
        result.warnings += name_lacking(lacking, result.names, self.train, f"the {len(self.amounts)} labelled frames")
        result.warnings = list(dict.fromkeys([*self.train.warnings, *self.test.warnings, *result.warnings]))
        return result

    def _frames(self, subset: Iterable[int]) -> list[str]:
        return [self.train.frames[index].name for index in subset]

    def _without(self, frames: Iterable[str]) -> list[str]:
        """The classes or joints that none of these frames has a label of."""
        amounts = [self.amounts[frame] for frame in frames]
        return [name for k, name in enumerate(self.result.names) if not any(float(amount[k]) > 0 for amount in amounts)]

    def _target(self, sample: Any) -> Tensor:
        target, self.amounts[sample.name] = self.target(sample)
        return target

    def _frozen(self, name: str, backbone: FeatureEncoder) -> list[ProbeRun]:
        options, result = self.options, self.result
        pool = sorted({index for subset in self.subsets.values() for index in subset})
        with progress(f"{name}: labelled frames", len(pool)) as advance:
            features, targets = collect_features(
                backbone, self.train.select(pool), self.size, options.batch_size, options.device, self._target, advance
            )
        name_lacking(self._without(self.amounts), result.names, self.train, "the labelled frames")
        heads: dict[Key, SavedHead] = {}
        digest = weights_hash(backbone)
        with progress(f"{name}: heads", len(self.subsets)) as advance:
            for key, subset in self.subsets.items():
                rows = [pool.index(index) for index in subset]
                head = self.fit(features[rows], targets[rows], key[1])
                heads[key] = self._usable(head, name, key, partial(features.__getitem__, rows), digest)
                advance(1)
        result.heads += [head for head in heads.values() if isinstance(head.head, Head)]
        return self._evaluate(name, backbone, heads)

    def _usable(self, head: Any, name: str, key: Key, features: Callable[[], Tensor], digest: str = "") -> SavedHead:
        """A fitted head with what its use needs."""
        options, facts = self.options, (self.task, self.result.names, name, *key)
        most: dict[str, Any] = {"max_instances": options.max_instances, "level": options.level}
        found = SavedHead(head, *facts, options.head, self.size, self.stride, digest, **most)
        return replace(found, threshold=self.threshold(found, features, self._frames(self.subsets[key])))

    def _finetuned(self, name: str, backbone: FeatureEncoder) -> list[ProbeRun]:
        """Backbone and head trained together, anew for each draw."""
        options, runs = self.options, []
        for key, subset in self.subsets.items():
            chosen = self.train.select(subset)
            outputs = len(self.result.names)
            network, head = finetune(
                backbone, chosen, self._target, type(self).loss, self.size, outputs, options, key[1], self.bias, self.mirror
            )

            def features(network: FeatureEncoder = network, chosen: FrameDataset[Any] = chosen) -> Tensor:
                batches = feature_batches(network, chosen, self.size, options.batch_size, options.device)
                return torch.cat([batch.cpu() for _, batch in batches])

            runs += self._evaluate(name, network, {key: self._usable(head, name, key, features)})
        return runs

    @torch.no_grad()
    def _evaluate(self, name: str, encoder: FeatureEncoder, heads: Mapping[Key, SavedHead]) -> list[ProbeRun]:
        """One pass over the test frames for all heads; draws the pictures of the head `shown`."""
        options, result, test = self.options, self.result, self.test
        scores = {key: self.scores(head.threshold) for key, head in heads.items()}
        drawn = {int(i) for i in np.linspace(0, len(test) - 1, min(options.pictures, len(test)))}
        drawn_features: list[Tensor] = []
        position = 0
        with progress(f"{name}: test frames", len(test)) as advance:
            for samples, features in feature_batches(encoder, test, self.size, options.batch_size, options.device):
                sizes = [sample.image.shape[:2] for sample in samples]
                for key, head in heads.items():
                    for row, prediction in enumerate(head.find(features, sizes)):
                        sample, frame = samples[row], test.frames[position + row]
                        scores[key].update(prediction, sample, frame)
                        if key == self.shown and position + row in drawn:
                            result.pictures[f"{name}_{sample.name}"] = self.picture(prediction, sample, head)
                            drawn_features.append(features[row].cpu())
                position += len(samples)
                advance(len(samples))
        if drawn_features:
            result.pictures[f"{name}_features_pca"] = beside(pca_pictures(torch.stack(drawn_features)))
        runs = [ProbeRun(name, *key, metrics=score.compute(), train_frames=[]) for key, score in scores.items()]
        which = f"the {len(test)} test frames"
        lacking = name_lacking(self.lacking(runs[0].metrics), result.names, test, which)
        result.warnings += [f"{text}{self.lacking_rule}" for text in lacking]
        return runs


def name_lacking(lacking: Sequence[str], names: Sequence[str], dataset: FrameDataset[Any], which: str) -> list[str]:
    """A sentence about those of the classes or joints that lack labels in the frames called ``which``, if any do.

    Raises:
        DatasetError: all are lacking, so that there is nothing to learn from or to score.
    """
    if len(lacking) == len(names):
        hints = "; ".join(["", *dataset.warnings])
        raise DatasetError(f"{dataset.name}: {which} have no label of any of {', '.join(names)}{hints}")
    return [f"{which} have no label of {', '.join(lacking)}"] if lacking else []
