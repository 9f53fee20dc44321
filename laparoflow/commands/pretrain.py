"""``laparoflow pretrain``."""

from __future__ import annotations

from pathlib import Path

from laparoflow.commands.base import Command
from laparoflow.training.settings import PretrainSettings

OF_METHODS = ("guide", "bandwidth", "flow_kernel", "temperature", "queue", "contrast.temperature", "contrast.positives",
              "contrast.scope", "momentum")  # fmt: skip


def refuse(settings: PretrainSettings) -> None:
    """Refuse a file of weights that is not there; a run that goes on does not read it again."""
    weights = settings.encoder.weights
    if weights is not None and not settings.resume and not Path(weights).exists():
        raise FileNotFoundError(f"encoder.weights: expected a file of weights, found nothing at {weights}")


def run(settings: PretrainSettings) -> None:
    from laparoflow.training.launch import find_launch
    from laparoflow.training.run import pretrain

    summary = pretrain(settings)
    if find_launch(settings.trainer.devices).rank:  # one process speaks for all
        return
    loss = "nothing left to do" if summary["loss"] is None else f"loss {summary['loss']:.4f}"
    print(f"{summary['steps']} steps, {loss}, {summary['seconds']:.0f} s; run in {settings.out}")


COMMAND = Command(
    PretrainSettings,
    run,
    {
        "what goes in and out": ("data", "out", "resume"),
        "length": ("max_steps", "batch_size", "optimiser.rate", "seed"),
        "the method": ("method.name", *(f"method.CHOSEN.{name}" for name in OF_METHODS)),
        "the network": ("encoder.backbone", "encoder.image_size", "encoder.weights", "encoder.embed_stride", "encoder.dim"),
        "the views": ("views.size", "views.geometry.scale", "views.geometry.rotation", "views.photometric.jitter"),
        "the machine": ("trainer.accelerator", "trainer.devices", "trainer.precision", "trainer.workers"),
        "watching": ("online.every", "online.dataset", "online.root", "trainer.log_every", "trainer.checkpoint_every"),
    },
    folders={"data": "a cache written by `laparoflow prepare`"},
    refuse=refuse,
)
