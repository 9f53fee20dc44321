"""Checkpoints that are whole or absent, the last few of them, and a save when the machine is taken away."""

from __future__ import annotations

import io
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from laparoflow.files import remove_leftovers, write_bytes


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

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Take over Ctrl-C."""
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._note)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take over SIGTERM, for which Lightning has set its own handler by now."""
        self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after an optimiser step once any process was told to."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
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
