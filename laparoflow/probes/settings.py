"""What a probe is asked to do, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Self

from laparoflow.bounds import check_choices, check_numbers
from laparoflow.datasets.settings import Budget, SplitBy, SplitSettings

Task = Literal["segmentation", "keypoints"]
HeadName = Literal["linear", "conv", "knn", "kmeans"]
LevelName = Literal["stem", "last", "both"]

TRAINED, RANDOM, SCRATCH, WEIGHTS = "trained", "random", "from scratch", "weights file"


def device_of(name: str) -> str:
    """The device that is meant: "auto" takes a GPU where torch sees one."""
    import torch  # not before work starts: the command line reads these settings without it

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


@dataclass(kw_only=True)
class ProbeOptions:
    """How frozen features are turned into scores; the data and the backbone come from elsewhere.

    Attributes:
        labels: label budgets: numbers of training frames, fractions in (0, 1] written with a point (1.0 is all of them,
            1 is one frame), or "all". Nested per seed.
        seeds: each draws its own frames and its own initial head.
        head: "linear" (one 1x1 convolution), "conv" (three small convolutions), and for segmentation also "knn"
            (votes of the nearest labelled cells) and "kmeans" (clusters matched one to one to the classes).
        level: which features the head sees: "last", the last block's (of DINO and its like always this one), "stem", the
            patch embedding's, or "both" joined. Every head sees them scaled per channel over the labelled frames.
        image_size: (height, width) that pictures are resized to for the backbone, multiples of its stride; null
            keeps the shape of the first picture with the longer side at most max(256, 32 strides) pixels.
        steps: training steps of a linear or convolutional head.
        batch_size: pictures per training step and per pass of the backbone.
        learning_rate: of AdamW, cosine decay to zero.
        weight_decay: of AdamW.
        neighbours: for "knn".
        finetune: train the backbone too, from where it is; with head "linear" or "conv".
        finetune_steps: steps of that.
        finetune_rate: learning rate of the backbone in that.
        nsd_tolerance: tolerance in pixels of the normalised surface distance; null leaves it out (it is slow).
        oks_sigmas: falloff per joint for the key-point similarity; null takes 0.05 for all.
        heatmap_sigma: width of a key point's heat map as a fraction of the picture's diagonal.
        max_instances: most detections per joint and picture.
        pictures: number of test frames drawn.
        device: where the backbone and the heads run; "auto" takes a GPU where torch sees one.
    """

    labels: list[Budget] = field(default_factory=lambda: [22])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    head: HeadName = "linear"
    level: LevelName = "last"
    image_size: tuple[int, int] | None = None
    steps: int = 300
    batch_size: int = 8
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    neighbours: int = 20
    finetune: bool = False
    finetune_steps: int = 400
    finetune_rate: float = 5e-4
    nsd_tolerance: float | None = None
    oks_sigmas: list[float] | None = None
    heatmap_sigma: float = 0.025
    max_instances: int = 4
    pictures: int = 6
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.labels or not self.seeds:
            raise ValueError(f"labels and seeds must not be empty, got {self.labels} and {self.seeds}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {self.seeds}")
        check_choices(self)
        check_numbers(self, "steps batch_size neighbours max_instances finetune_steps", low=1)
        check_numbers(self, "learning_rate heatmap_sigma finetune_rate", above=0)
        check_numbers(self, "pictures weight_decay", low=0)
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise ValueError(f"image_size must be (height, width), got {self.image_size}")
        if self.finetune and self.head not in ("linear", "conv"):
            raise ValueError(f"head must be linear or conv with finetune, got {self.head!r}")

    def resolved(self) -> Self:
        """The same options with the device "auto" spelt out."""
        return replace(self, device=device_of(self.device))


@dataclass(kw_only=True)
class ProbeSettings(ProbeOptions):
    """Everything that `laparoflow probe` needs; see `ProbeOptions` for the rest.

    Attributes:
        task: "segmentation" or "keypoints".
        dataset: name of the data set.
        root: its folder.
        checkpoint: folder of a pretraining run, or a checkpoint file.
        out: folder to write; it must not hold a finished probe already.
        split: what keeps train and test apart; see `laparoflow.datasets.splits`.
        test_fraction, gap_fraction, test_videos, train_videos, split_seed: the split's details.
        dataset_options: the reader's own options, for instance {"classes": 8}.
        test_dataset, test_root, test_dataset_options: test on another data set, through a class map; then all of
            `dataset` trains, or its published train part where it has one.
        class_map, class_map_variant: the map between the two (a name or a YAML file) and its variant.
        random_control: probe a randomly initialised twin of the backbone beside it.
        weights_control: local weights file of a timm model (ImageNet, DINO) to probe beside it.
        weights_backbone: that model's timm name, whose tag also says how its pictures are normalised
            (``vit_small_patch16_224.dino``); null takes the checkpoint's.
        scratch_labels: label budgets of a third control, the same network trained with labels from scratch, with head
            "linear" or "conv".
        overwrite: replace an earlier result in `out`.
    """

    task: Task
    dataset: str
    root: Path
    checkpoint: Path
    out: Path
    split: SplitBy = "auto"
    test_fraction: float = 0.3
    gap_fraction: float = 0.1
    test_videos: list[str] = field(default_factory=list)
    train_videos: list[str] = field(default_factory=list)
    split_seed: int = 0
    dataset_options: dict[str, Any] = field(default_factory=dict)
    test_dataset: str | None = None
    test_root: Path | None = None
    test_dataset_options: dict[str, Any] = field(default_factory=dict)
    class_map: str | None = None
    class_map_variant: str = "default"
    random_control: bool = True
    weights_control: Path | None = None
    weights_backbone: str | None = None
    scratch_labels: list[Budget] = field(default_factory=list)
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scratch_labels and self.head not in ("linear", "conv"):
            raise ValueError(f"scratch_labels: the network from scratch needs head linear or conv, got head {self.head!r}")
        if (self.test_dataset is None) != (self.test_root is None) or (self.test_dataset and not self.class_map):
            raise ValueError("test_dataset, test_root and class_map go together")
        if self.test_dataset and self.task != "segmentation":
            raise ValueError(f"test_dataset needs task segmentation, got {self.task!r}")

    @property
    def split_settings(self) -> SplitSettings:
        videos = tuple(self.test_videos), tuple(self.train_videos)
        return SplitSettings(self.split, self.test_fraction, self.gap_fraction, *videos, self.split_seed)


@dataclass
class ProbeRun:
    """Scores of one head on the test part, as JSON values, and its budget, seed and labelled frames by name."""

    backbone: str
    labels: int
    seed: int
    metrics: dict[str, Any]
    train_frames: list[str]


@dataclass
class ProbeResult:
    """All heads of a probe.

    Attributes:
        names: classes or joints.
        image_size: (height, width) that the backbone saw.
        runs: one per backbone, budget and seed.
        pictures: name -> RGB uint8 [H, W, 3].
        heads: the trained heads of frozen backbones, `saved.SavedHead` each.
    """

    task: str
    names: tuple[str, ...]
    image_size: tuple[int, int]
    runs: list[ProbeRun]
    pictures: dict[str, Any] = field(default_factory=dict)
    heads: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
