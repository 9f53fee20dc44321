"""The LightningModule: views, loss, optimiser, logs."""

from __future__ import annotations

import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from laparoflow.bounds import plain
from laparoflow.methods.build import build_method
from laparoflow.models.encoder import build_encoder
from laparoflow.models.loading import SETTINGS_KEY
from laparoflow.models.weights import check_fit
from laparoflow.training.clock import RateMeter, Stopwatch
from laparoflow.training.frames import FrameBatch, mixed_seed
from laparoflow.training.optim import build_optimiser, freeze
from laparoflow.training.pairs import near_view, two_views
from laparoflow.training.resume import DATA_KEY, RUN_KEY
from laparoflow.training.settings import PretrainSettings
from laparoflow.views.two_views import TwoViews


def process_memory() -> float:
    """Largest resident memory of this process so far, in MB (2^20 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


class NonFiniteLossError(ArithmeticError):
    """The loss is NaN or infinite; the message names the file that holds the batch."""


class PretrainModule(pl.LightningModule):
    """Trains a ``method``, which is network and loss, on frames; the content hash of the cache goes into checkpoints."""

    def __init__(self, settings: PretrainSettings, data_hash: str | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.data_hash = data_hash
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(settings.seed, 0))
            # a run that goes on takes its checkpoint's weights; the file that it once started from may be gone
            encoder = build_encoder(replace(settings.encoder, weights=None) if settings.resume else settings.encoder)
            self.method = build_method(encoder, settings.method)
        freeze(self.method, len(encoder.backbone.model.blocks), settings.optimiser.freeze)
        self.views = TwoViews(settings.views)
        self.watch = Stopwatch()
        self.view_rate = RateMeter()
        self.example_input_array = None

    def training_step(self, batch: FrameBatch, batch_index: int) -> Tensor:
        """One batch of frames to a loss; everything random in it comes from (seed, batch number, process)."""
        number = int(batch.number[0])
        seed = (self.settings.seed, 1, number, self.global_rank)
        torch.manual_seed(mixed_seed(*seed, 1))
        stride = self.method.encoder.embed_stride
        with self.view_rate.measure(len(batch.image), self.device):
            first, second = two_views(batch, self.views, stride, seed, self.method.shuffle_flow)
            near = near_view(batch, first, self.views, stride, seed)
        output = self.method(first, second, near)
        if not torch.isfinite(output.loss):
            raise NonFiniteLossError(self._save_bad_batch(batch, output.loss.detach(), seed))
        # other processes are asked for their values only where they get a row of the logs
        joint = self._stepped(batch) and (self.global_step + 1) % self.settings.trainer.log_every == 0
        self.log("loss", output.loss.detach(), prog_bar=True, sync_dist=joint)
        for name, value in output.logs.items():
            self.log(name, value, prog_bar=name == "excess", sync_dist=joint)
        return output.loss

    @staticmethod
    def of(module: pl.LightningModule) -> PretrainModule:
        """``module`` as what our callbacks are made for; a TypeError for another one."""
        if not isinstance(module, PretrainModule):
            raise TypeError(f"expected a PretrainModule, got {type(module).__name__}")
        return module

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Note how long the batch was waited for."""
        self.watch.batch_arrived()

    def on_train_batch_end(self, outputs: Any, batch: FrameBatch, batch_index: int) -> None:
        """Log speed and waiting."""
        if self._stepped(batch) and self.global_step % self.settings.trainer.log_every == 0:
            seconds, share = self.watch.read()
            frames = len(batch.image) * self.settings.trainer.log_every * self.settings.trainer.accumulate
            self.log("frames_per_second", frames * self.trainer.world_size / seconds)
            self.log("views_per_second", self.view_rate.read())
            self.log("data_wait_share", share)
            self.log("process_memory_mb", process_memory())
            if self.device.type == "cuda":
                self.log("memory_mb", torch.cuda.max_memory_allocated(self.device) / 2**20)
        self.watch.batch_done()

    def _stepped(self, batch: FrameBatch) -> bool:
        return batch.ends_step(self.trainer.accumulate_grad_batches)

    def _save_bad_batch(self, batch: FrameBatch, loss: Tensor, seed: tuple[int, ...]) -> str:
        """Save what led to a loss that is not finite, and say so."""
        path = Path(self.settings.out) / f"bad_batch_{seed[2]:07d}_process{self.global_rank}.pt"
        parts = batch._asdict()
        near = parts.pop("near")
        parts |= {} if near is None else {f"near_{name}": value for name, value in near._asdict().items()}
        content = {name: value.cpu() for name, value in parts.items()}
        torch.save(content | {"loss": loss.detach().cpu(), "seed": list(seed)}, path)
        return (
            f"the loss is {float(loss)} at batch {seed[2]} (step {self.global_step}); "
            f"its frames, flow and view seed are in {path}"
        )

    def configure_optimizers(self) -> Any:
        """AdamW, which moves the teacher after each step that it takes, and its per-step schedule."""
        blocks = len(self.method.encoder.backbone.model.blocks)
        total = self.settings.max_steps
        optimiser, schedule = build_optimiser(self.method, blocks, total, self.settings.optimiser)
        # checkpoints are written before on_train_batch_end is called; the trainer counts the step after this hook
        optimiser.register_step_post_hook(lambda *_: self.method.after_step(self.global_step + 1, total))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another network than the one that was saved, as another version may build it."""
        what = f"checkpoint: that of {self.settings.out}, from which to resume,"
        check_fit(checkpoint["state_dict"], self.state_dict(), what)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to build the network again and to go on with the run."""
        checkpoint[SETTINGS_KEY] = plain(self.settings.encoder)
        checkpoint[RUN_KEY] = plain(self.settings)
        checkpoint[DATA_KEY] = self.data_hash
