"""A moving average of the network's weights, kept beside them and saved for export and probes."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from laparoflow.models.loading import AVERAGED_KEY
from laparoflow.training.module import PretrainModule


class AveragedEncoder(Callback):
    """mean <- decay * mean + (1 - decay) * weights after each optimiser step; decay rises from 0 in the first steps.

    Args:
        decay: in (0, 1).

    Attributes:
        mean: tensors of the encoder's state dict, floating ones averaged, others copied; empty before the start.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"trainer.average: expected a number in (0, 1), got {decay}")
        self.decay = decay
        self.mean: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin at the present weights, unless a checkpoint brought a mean."""
        state = PretrainModule.of(module).method.encoder.state_dict()
        held = self.mean
        self.mean = {name: held.get(name, value).detach().clone().to(value.device) for name, value in state.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the mean after an optimiser step."""
        if (int(batch.number[0]) + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        decay = min(self.decay, step / (step + 10))
        for name, value in PretrainModule.of(module).method.encoder.state_dict().items():
            if value.is_floating_point():
                self.mean[name].lerp_(value, 1 - decay)
            else:
                self.mean[name].copy_(value)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the mean."""
        checkpoint[AVERAGED_KEY] = {name: value.clone() for name, value in self.mean.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the mean of a checkpoint."""
        self.mean = dict(checkpoint.get(AVERAGED_KEY, {}))
