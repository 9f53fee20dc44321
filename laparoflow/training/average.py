"""A moving average of the network's weights (timm's), kept beside them and saved for export and probes."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from timm.utils import ModelEmaV3

from laparoflow.models.loading import AVERAGED_KEY
from laparoflow.training.module import PretrainModule


class AveragedEncoder(Callback):
    """mean <- d * mean + (1 - d) * weights after optimiser step s, d = min(decay, s / (s + 10)), decay in (0, 1).

    ``average`` is the averaged encoder; None before the start.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: ModelEmaV3 | None = None
        self._loaded: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin at the present weights, unless a checkpoint brought a mean."""
        encoder = PretrainModule.of(module).method.encoder
        self.average = ModelEmaV3(encoder, self.decay, use_warmup=True, warmup_gamma=10, warmup_power=1)
        self.average.module.load_state_dict(encoder.state_dict() | self._loaded)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the mean after an optimiser step."""
        if self.average is not None and (int(batch.number[0]) + 1) % trainer.accumulate_grad_batches == 0:
            # timm counts from the first update on, whose decay is 0
            self.average.update(PretrainModule.of(module).method.encoder, trainer.global_step + 1)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the mean."""
        state = self._loaded if self.average is None else self.average.module.state_dict()
        checkpoint[AVERAGED_KEY] = {name: value.clone() for name, value in state.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the mean of a checkpoint."""
        self._loaded = dict(checkpoint.get(AVERAGED_KEY, {}))
