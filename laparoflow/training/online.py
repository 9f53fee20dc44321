"""Watching the features during training: collapse and pictures of the batch, and probes of a few labelled frames."""

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
from laparoflow.probes.segmentation import probe_segmentation
from laparoflow.probes.settings import HeadName, ProbeOptions
from laparoflow.progress import progress
from laparoflow.training.module import PretrainModule
from laparoflow.training.pictures import draw_features
from laparoflow.training.settings import OnlineSettings

MAX_CELLS = 4000
HEADS: tuple[HeadName, ...] = ("linear", "knn")


class OnlineProbe(Callback):
    """Logs ``online/*`` every so many steps, in eval mode; pictures go to the run's folder ``out``."""

    def __init__(self, settings: OnlineSettings, out: Path) -> None:
        self.settings = settings
        self.out = out
        self.halves: list[Any] = []

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Open the labelled set; of frames evenly spread over it every second one is learned from."""
        if self.halves or self.settings.root is None:
            return
        options = self.settings.dataset_options
        dataset = build_dataset(self.settings.dataset, Path(self.settings.root), task="segmentation", **options)
        count = min(self.settings.frames, len(dataset))
        if count < 2:
            raise ValueError(f"online.frames: expected at least 2 frames in {self.settings.root}, found {len(dataset)}")
        chosen = [int(i) for i in np.linspace(0, len(dataset) - 1, count)]
        halves = [dataset.select(chosen[half::2]) for half in (0, 1)]
        if not all(any((sample.mask != IGNORE_INDEX).any() for sample in half) for half in halves):
            raise ValueError(f"online.frames: one half of the {count} frames in {self.settings.root} has no labelled pixel")
        self.halves = halves

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        """Look at the features after every ``every``-th optimiser step."""
        if not batch.ends_step(trainer.accumulate_grad_batches) or trainer.global_step % self.settings.every:
            return
        encoder = PretrainModule.of(module).method.encoder
        training = encoder.training
        encoder.eval()
        values = self.measure(encoder, batch)
        if trainer.is_global_zero:
            self.draw(trainer, module, batch)
        encoder.train(training)
        logged = {f"online/{name}": value for name, value in values.items()}
        for logger in trainer.loggers:  # module.log would repeat the values in the rows between two looks
            logger.log_metrics(logged, step=trainer.global_step - 1)

    def measure(self, encoder: Any, batch: Any) -> dict[str, float]:
        """Collapse on frames of the batch; mean IoU on one half of the labelled frames of heads fitted to the other."""
        stride = encoder.feature_stride
        height, width = (side // stride * stride for side in batch.image.shape[-2:])
        images = batch.image[:4, :, :height, :width].float() / 255
        with torch.no_grad():
            cells = torch.cat([encoder.features(image[None])[0].flatten(1).T.float() for image in images])
        cells = cells[:: max(1, len(cells) // MAX_CELLS)]
        values = {"feature_spread": float(feature_spread(cells)), "effective_rank": float(effective_rank(cells))}
        if not self.halves:
            return values
        train, test = self.halves
        for head in HEADS:
            options = ProbeOptions(labels=["all"], seeds=[0], head=head, pictures=0, device=str(images.device))
            with progress("online probe", None, show=False):
                values[head] = probe_segmentation(encoder, train, test, options).runs[0].metrics["mean_iou"]
        return values

    def draw(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Write the picture of the batch's first frame, also to TensorBoard where that is on."""
        picture = draw_features(PretrainModule.of(module).method, batch, self.settings.pixels)
        path = self.out / "pictures" / f"features_{trainer.global_step:07d}.png"
        write_png(path, picture.permute(1, 2, 0).numpy())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("features", picture, trainer.global_step - 1)


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
