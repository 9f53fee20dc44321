"""Watching the features during training, on a few labelled frames: linear probe, k-NN, collapse, pictures.

What is measured needs no training: spread and effective rank, votes of the nearest cells, a ridge classifier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn import functional as F

from laparoflow.datasets import build_dataset
from laparoflow.datasets.samples import IGNORE_INDEX
from laparoflow.files import write_png
from laparoflow.training.module import PretrainModule
from laparoflow.training.pictures import draw_features
from laparoflow.training.settings import OnlineSettings

MAX_CELLS = 4000
MAX_SIDE = 256
NEIGHBOURS, PENALTY = 10, 1e-2


class OnlineProbe(Callback):
    """Logs ``online/*`` every so many steps, in eval mode and without gradient; pictures go to the run's folder ``out``."""

    def __init__(self, settings: OnlineSettings, out: Path) -> None:
        self.settings = settings
        self.out = out
        self.images: Tensor | None = None
        self.masks: Tensor | None = None
        self.classes = 0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Read the labelled frames, evenly spread over the set."""
        if self.images is not None or self.settings.root is None:
            return
        options = self.settings.dataset_options
        dataset = build_dataset(self.settings.dataset, Path(self.settings.root), task="segmentation", **options)
        count = min(self.settings.frames, len(dataset))
        if count < 2:
            raise ValueError(f"online.frames: expected at least 2 frames in {self.settings.root}, found {len(dataset)}")
        samples = [dataset[int(i)] for i in np.linspace(0, len(dataset) - 1, count)]
        stride = PretrainModule.of(module).method.encoder.feature_stride
        height, width = samples[0].image.shape[:2]
        scale = min(1.0, MAX_SIDE / max(height, width))
        size = [max(stride, int(side * scale) // stride * stride) for side in (height, width)]
        images = [torch.from_numpy(np.ascontiguousarray(s.image)).permute(2, 0, 1).float() / 255 for s in samples]
        masks = [torch.from_numpy(np.ascontiguousarray(s.mask)).float()[None] for s in samples]
        self.images = torch.stack([F.interpolate(i[None], size, mode="area")[0] for i in images])
        cells = [size[0] // stride, size[1] // stride]
        self.masks = torch.stack([F.interpolate(m[None], cells, mode="nearest-exact")[0, 0] for m in masks]).long()
        self.classes = len(dataset.classes)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        """Look at the features after every ``every``-th optimiser step."""
        if not batch.ends_step(trainer.accumulate_grad_batches) or trainer.global_step % self.settings.every:
            return
        encoder = PretrainModule.of(module).method.encoder
        training = encoder.training
        encoder.eval()
        with torch.no_grad():
            values = self.measure(encoder, batch)
            if trainer.is_global_zero:
                self.draw(trainer, module, batch)
        encoder.train(training)
        logged = {f"online/{name}": float(value) for name, value in values.items()}
        for logger in trainer.loggers:  # module.log would repeat the values in the rows between two looks
            logger.log_metrics(logged, step=trainer.global_step - 1)

    def measure(self, encoder: Any, batch: Any) -> dict[str, Tensor]:
        """Scores on the labelled frames (half to learn from, half to score), collapse on them or on the batch."""
        device = batch.image.device
        stride = encoder.feature_stride
        if self.images is None or self.masks is None:
            height, width = (side // stride * stride for side in batch.image.shape[-2:])
            images = batch.image[:4, :, :height, :width].float() / 255
            cells = torch.cat([_cells(encoder.features(image[None])) for image in images])
            cells = cells[:: max(1, len(cells) // MAX_CELLS)]
            return {"feature_spread": feature_spread(cells), "effective_rank": effective_rank(cells)}
        features = torch.stack([_cells(encoder.features(i[None].to(device))) for i in self.images])
        masks = self.masks.to(device).flatten(1)
        parts = []
        for half in (slice(0, None, 2), slice(1, None, 2)):
            x, y = features[half].flatten(0, 1), masks[half].flatten()
            x, y = x[y != IGNORE_INDEX], y[y != IGNORE_INDEX]
            step = max(1, len(x) // MAX_CELLS)
            parts += [x[::step], y[::step]]
        train, labels, test, truth = parts
        everything = torch.cat([train, test])
        return {
            "feature_spread": feature_spread(everything),
            "effective_rank": effective_rank(everything),
            "linear": linear_accuracy(train, labels, test, truth, self.classes),
            "knn": nearest_accuracy(train, labels, test, truth),
        }

    def draw(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Write the picture of the batch's first frame, also to TensorBoard where that is on."""
        picture = draw_features(PretrainModule.of(module).method, batch, self.settings.pixels)
        path = self.out / "pictures" / f"features_{trainer.global_step:07d}.png"
        write_png(path, picture.permute(1, 2, 0).numpy())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("features", picture, trainer.global_step - 1)


def _cells(features: Tensor) -> Tensor:
    """[1, C, h, w] -> [h * w, C]."""
    return features[0].flatten(1).T.float()


def feature_spread(features: Tensor) -> Tensor:
    """Mean standard deviation per channel of unit features [N, C], times sqrt(C): 1 for isotropic, 0 for collapsed."""
    unit = F.normalize(features.float(), dim=1)
    return unit.std(0, correction=0).mean() * features.shape[1] ** 0.5


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of the normalised spectrum of centred features [N, C]: between 1 and min(N, C).

    Source: Roy and Vetterli, The effective rank, 2007.
    """
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp().float()


def nearest_accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> Tensor:
    """Share of test cells [M, C] whose class is the one most frequent among the nearest train cells [N, C]."""
    similarity = F.normalize(test.float(), dim=1) @ F.normalize(train.float(), dim=1).T
    nearest = similarity.topk(min(NEIGHBOURS, len(train)), dim=1).indices
    return (labels[nearest].mode(dim=1).values == truth).float().mean()


def linear_accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Mean recall over the classes in ``truth`` of a ridge classifier on standardised features, in closed form."""
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    x, y = ((part - mean) / std for part in (train, test))
    x, y = (torch.cat([part, torch.ones_like(part[:, :1])], 1).double() for part in (x, y))
    targets = F.one_hot(labels, classes).double()
    weight = targets.sum(0).clamp(min=1).reciprocal()[labels]  # every class counts the same
    gram = (x * weight[:, None]).T @ x + PENALTY * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    solved = torch.linalg.solve(gram, (x * weight[:, None]).T @ targets)
    right = (y @ solved).argmax(1) == truth
    return torch.stack([right[truth == c].float().mean() for c in truth.unique()]).mean()
