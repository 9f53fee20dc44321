"""Every setting of a pretraining run; each is an option of the command line and a key of a YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from laparoflow.bounds import check_numbers
from laparoflow.methods.settings import MethodSettings
from laparoflow.views.settings import ViewSettings


@dataclass
class EncoderSettings:
    """What the network is made of.

    Attributes:
        backbone: name of a timm vision transformer; ``laparoflow_convvit_mini`` learns in minutes on a CPU. With timm's
            tag (``vit_small_patch16_224.dino``) it takes the mean and deviation that weights of that kind want.
        image_size: side in pixels that the position embedding is laid out for (other sizes are interpolated).
        weights: local checkpoint of the backbone to start from (timm, DINO or ours); never fetched. A file does not say
            which mean and deviation it wants: where timm knows several for the backbone, a warning lists them.
        backbone_options: further arguments of ``timm.create_model`` (``depth``, ``drop_path_rate``, ...).
        feature_blocks: how many last blocks make up the frozen features.
        embed_stride: stride of the embeddings in pixels, the backbone's stride over a power of two; null keeps the
            backbone's.
        dim: length of a pixel embedding.
        hidden: width of the projection's hidden layers.
        projection_layers: linear layers of the projection.
        image_mean: mean of RGB in 0..1; null takes the backbone's own.
        image_std: standard deviation of RGB in 0..1; null takes the backbone's own.
    """

    backbone: str = "vit_small_patch16_224"
    image_size: int = 224
    weights: Path | None = None
    backbone_options: dict[str, Any] = field(default_factory=dict)
    feature_blocks: int = 1
    embed_stride: int | None = None
    dim: int = 64
    hidden: int = 256
    projection_layers: int = 2
    image_mean: list[float] | None = None
    image_std: list[float] | None = None


@dataclass
class OptimiserSettings:
    """AdamW with a linear warm-up and a cosine to ``final_rate`` times the learning rate.

    Attributes:
        rate: learning rate.
        weight_decay: on matrices; vectors (biases, norms) and position embeddings have none.
        betas: of AdamW.
        warmup: share of the steps that warm up.
        final_rate: share of the learning rate that is left at the end.
        layer_decay: factor on the learning rate per block counted from the last; 1 for none.
        clip: largest norm of the gradient; 0 for no clipping.
        freeze: what of the backbone keeps its weights: "stem" is the patch embedding (with the position embedding), a number
            N that and the first N blocks; null nothing. Meant for ``encoder.weights``.
    """

    rate: float = 5e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = 0.05
    final_rate: float = 0.01
    layer_decay: float = 1.0
    clip: float = 1.0
    freeze: Literal["stem"] | int | None = None


@dataclass
class TrainerSettings:
    """How the steps are run.

    Attributes:
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        devices: processes on this machine; under torchrun or SLURM the launcher's numbers are taken instead.
        precision: as Lightning names it (``32-true``, ``bf16-mixed``, ``16-mixed``).
        accumulate: batches per optimiser step.
        workers: processes that read frames.
        verify: before training, ``sizes`` looks at the sizes of the cache's files, ``sample`` also compares the content of
            a few shards, ``hashes`` that of all (each process its share).
        checkpoint_every: steps between checkpoints.
        keep: how many checkpoints are kept.
        log_every: steps between rows of the logs.
        progress: show a progress bar.
        deterministic: only deterministic algorithms.
        average: decay of a moving average of the weights; null for none.
        tensorboard: write TensorBoard logs beside the CSV.
        wandb: name of a Weights & Biases project; null for none.
        profiler: Lightning's table of where the time goes, ``simple`` by steps of its loop or ``advanced`` by functions;
            null for none.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accumulate: int = 1
    workers: int = 0
    verify: Literal["hashes", "sample", "sizes"] = "sample"
    checkpoint_every: int = 500
    keep: int = 2
    log_every: int = 10
    progress: bool = True
    deterministic: bool = False
    average: float | None = None
    tensorboard: bool = True
    wandb: str | None = None
    profiler: Literal["simple", "advanced"] | None = None


@dataclass
class OnlineSettings:
    """Watching the features while they are learned.

    Attributes:
        every: steps between looks; 0 for none.
        dataset: name of a labelled segmentation set.
        root: its folder; null measures collapse and draws pictures only.
        dataset_options: the reader's own options.
        frames: labelled frames; every second one is learned from, the others are scored.
        pixels: (x, y) as shares of a frame's width and height, of the pixels whose pair weights are drawn.
    """

    every: int = 0
    dataset: str = "synthetic"
    root: Path | None = None
    dataset_options: dict[str, Any] = field(default_factory=dict)
    frames: int = 8
    pixels: list[tuple[float, float]] = field(default_factory=lambda: [(0.5, 0.5), (0.25, 0.5), (0.75, 0.5)])

    def __post_init__(self) -> None:
        self.pixels = [(float(x), float(y)) for x, y in self.pixels]
        if not all(0 <= share <= 1 for pixel in self.pixels for share in pixel):
            raise ValueError(f"online.pixels: expected shares in 0 to 1, got {self.pixels}")


@dataclass
class PretrainSettings:
    """A pretraining run.

    Attributes:
        data: cache written by ``laparoflow prepare``.
        out: folder of the run; must not exist, or be empty, unless ``resume``.
        max_steps: optimiser steps.
        batch_size: frames per process and batch.
        balance: how frames are drawn: ``frames`` takes each as often as any other, ``clips`` each clip, ``folders`` each
            folder of the prepared videos and in it each clip.
        seed: of weights, order and views.
        resume: go on from the last checkpoint in ``out``; on the command line, what is not given is taken from its
            ``config.yaml``.
        method: what is learned, and its options.
        encoder: the network.
        views: the two views.
        optimiser: learning rate and the like.
        trainer: devices, precision, checkpoints, logs.
        online: linear probe, k-NN and collapse during training.
    """

    data: Path
    out: Path
    max_steps: int = 10_000
    batch_size: int = 16
    balance: Literal["frames", "clips", "folders"] = "folders"
    seed: int = 0
    resume: bool = False
    method: MethodSettings = field(default_factory=MethodSettings)
    encoder: EncoderSettings = field(default_factory=lambda: EncoderSettings(embed_stride=4))
    views: ViewSettings = field(default_factory=ViewSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    online: OnlineSettings = field(default_factory=OnlineSettings)

    def __post_init__(self) -> None:
        check_numbers(self, "max_steps batch_size trainer.accumulate trainer.checkpoint_every trainer.keep", low=1)
        check_numbers(self, "trainer.log_every trainer.devices", low=1)
        check_numbers(self, "trainer.average", above=0, below=1)
        check_numbers(self, "optimiser.rate", above=0)
        check_numbers(self, "optimiser.warmup", low=0, below=1)
        check_numbers(self, "optimiser.layer_decay", above=0, high=1)


def check_batch(settings: PretrainSettings, processes: int) -> None:
    """Refuse batches, spread over so many processes, that leave a method nothing to learn from, by a ValueError."""
    method = settings.method
    if method.name == "flow" and method.flow.guide == "shuffled" and settings.batch_size < 2:
        raise ValueError("batch_size: expected at least 2 with guide 'shuffled', which takes another frame's flow, got 1")
    if method.name == "image" and settings.batch_size * processes < 2 and not method.image.queue:
        raise ValueError("batch_size: expected at least 2 with method 'image', whose negatives are other frames, got 1")
