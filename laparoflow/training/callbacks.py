"""What goes on beside the steps of a run: progress, an average of the weights, checkpoints that are whole or absent, and a
save when the machine is taken away.
"""

from __future__ import annotations

import io
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from timm.utils import ModelEmaV3

from laparoflow.files import remove_leftovers, write_bytes
from laparoflow.models.loading import AVERAGED_KEY
from laparoflow.progress import progress
from laparoflow.training.module import PretrainModule


class StepProgress(Callback):
    """Progress in steps with the loss."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._seen = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Show the steps that are left."""
        self._seen = trainer.global_step

        def note() -> str:
            loss = trainer.callback_metrics.get("loss")
            return "" if loss is None else f"loss {float(loss):.4f}"

        total = trainer.max_steps - trainer.global_step
        self._advance = self._open.enter_context(progress("steps", total, trainer.is_global_zero, note))

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        """Count the optimiser's steps."""
        self._advance(trainer.global_step - self._seen)
        self._seen = trainer.global_step

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Close the bar, also after an exception."""
        self._open.close()


class AveragedEncoder(Callback):
    """A moving average of the network's weights (timm's), kept beside them and saved for export and probes.

    mean <- d * mean + (1 - d) * weights after optimiser step s, d = min(decay, s / (s + 10)), decay in (0, 1).

    ``average`` is the averaged encoder; None before the start.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: ModelEmaV3 | None = None
        self._loaded: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin at the present weights, unless a checkpoint brought a mean."""
        encoder = PretrainModule.of(module).method.encoder
        self.average = ModelEmaV3(encoder, self.decay, use_warmup=True, warmup_gamma=10, warmup_power=1)
        self.average.module.load_state_dict(encoder.state_dict() | self._loaded)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        """Move the mean after an optimiser step."""
        if self.average is not None and batch.ends_step(trainer.accumulate_grad_batches):
            # timm counts from the first update on, whose decay is 0
            self.average.update(PretrainModule.of(module).method.encoder, trainer.global_step + 1)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the mean."""
        state = self._loaded if self.average is None else self.average.module.state_dict()
        checkpoint[AVERAGED_KEY] = {name: value.clone() for name, value in state.items()}

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the mean of a checkpoint."""
        self._loaded = dict(checkpoint.get(AVERAGED_KEY, {}))


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save ``checkpoint`` at ``path`` so that a reader never sees half a file.

        On a full disk earlier ones are as they were.
        """
        target = Path(path)
        remove_leftovers(target.parent)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(target, buffer.getvalue())


class SaveOnSignal(Callback):
    """On SIGTERM or Ctrl-C: finish the step, write ``last.ckpt``, stop; a second Ctrl-C stops at once.

    Attributes:
        stopped: the signal that stopped the run, or None.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stopped: int | None = None
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        if number == signal.SIGINT:
            print("stopping after this step; Ctrl-C again stops at once, without saving", file=sys.stderr, flush=True)
            signal.signal(number, signal.default_int_handler)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Take over Ctrl-C."""
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._note)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take over SIGTERM, for which Lightning has set its own handler by now."""
        self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        """Stop after an optimiser step once any process was told to."""
        if (index + 1) % trainer.accumulate_grad_batches:
            return
        told = self._received is not None
        if trainer.world_size > 1:
            told = trainer.strategy.reduce_boolean_decision(told, all=False)
        if told and self.stopped is None:
            self.stopped = self._received or signal.SIGTERM
            trainer.save_checkpoint(self.folder / "last.ckpt")
            trainer.should_stop = True

    def close(self) -> None:
        """Give the signals back."""
        while self._before:
            signal.signal(*self._before.popitem())
