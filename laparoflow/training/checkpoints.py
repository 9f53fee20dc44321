"""Checkpoints that are whole or absent, the last few of them, and a save when the machine is taken away."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import IO, Any, BinaryIO, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from laparoflow.files import write_atomically


class _RememberingWriter:
    """A file of which the first failed write is kept: the library hides why it could not write."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.problem: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, and keep what went wrong."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.problem = error
            raise

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save ``checkpoint`` at ``path`` so that a reader never sees half a file.

        Raises:
            DiskFullError: the disk is full; earlier checkpoints are as they were.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f".{target.name}.*.partial"):
            leftover.unlink(missing_ok=True)  # of a process that was killed while it wrote
        with write_atomically(target) as file:
            writer = _RememberingWriter(file)
            try:
                torch.save(checkpoint, cast(IO[bytes], writer))
            except RuntimeError as error:
                raise writer.problem or error from error


class StepCheckpoints(ModelCheckpoint):
    """``step_0000500.ckpt`` every so many steps, the newest ``keep`` of them, and ``last.ckpt``."""

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        super().__init__(
            dirpath=folder,
            filename="step_{step:07d}",
            auto_insert_metric_name=False,
            monitor="step",
            mode="max",
            save_top_k=keep,
            save_last=True,
            every_n_train_steps=every,
            enable_version_counter=False,
        )


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

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
