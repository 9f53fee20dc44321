"""Trained heads as files, and their use on other pictures.

    out/heads/BACKBONE_LABELS_SEED.safetensors     weights, with the mean and deviation of each feature channel
                                      .json        the fields of `SavedHead`

A probe of frozen features keeps every linear or convolutional head that it trained, and names its file in the runs of
`metrics.json`. Votes of neighbours and clusters are no heads, and a head that was trained together with its backbone is
of no use without it; neither is kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from typing_extensions import Self

from laparoflow.files import write_bytes, write_json
from laparoflow.models.encoder import PixelEncoder
from laparoflow.probes.features import FeatureEncoder, to_input
from laparoflow.probes.heads import Head
from laparoflow.probes.heatmaps import detect, heatmap_size, upsample
from laparoflow.probes.settings import TRAINED, device_of

FORMAT = "laparoflow-head-1"
FOLDER = "heads"


@dataclass(frozen=True)
class SavedHead:
    """A trained head and all that its use needs beside the backbone.

    Attributes:
        head: features [B, C, h, w] -> maps [B, K, h, w], in eval mode; the scaling of the features is inside. While a probe
            runs also a function of votes or clusters, which is not kept.
        task: "segmentation" or "keypoints".
        names: classes or joints, in the order of the maps.
        backbone: "trained", "random" or another name of the probe.
        labels: number of labelled frames that it was trained with.
        seed: of the choice of frames and of the head.
        kind: "linear" or "conv".
        image_size: (height, width) that pictures are resized to.
        feature_stride: of the backbone, in pixels.
        encoder_hash: of the backbone's weights, see `weights_hash`.
        threshold: score from which a key point counts, chosen on the labelled frames; None for segmentation.
        max_instances: most key points per joint and picture.
        level: which features of the backbone it takes, see `PixelEncoder.at`.
    """

    head: Head
    task: str
    names: tuple[str, ...]
    backbone: str
    labels: int
    seed: int
    kind: str
    image_size: tuple[int, int]
    feature_stride: int
    encoder_hash: str
    threshold: float | None = None
    max_instances: int = 4
    level: Literal["stem", "last", "both"] = "last"

    @property
    def file(self) -> str:
        """Path of the JSON file below the probe's folder."""
        return f"{FOLDER}/{self.backbone.replace(' ', '-')}_{self.labels}_{self.seed}.json"

    def to(self, device: str) -> Self:
        """The same head, moved to a device, "auto" included."""
        self.head.to(device_of(device))
        return self

    @torch.no_grad()
    def predict(self, encoder: FeatureEncoder, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        """What the head finds in pictures, in one pass of the backbone.

        Args:
            encoder: the backbone that the head was trained on, in eval mode, on the head's device.
            images: RGB uint8 [H, W, 3] each, of any size.

        Returns:
            For segmentation, per picture the class ids int64 [H, W]. For key points, per picture a list with one
            [P, 3] of (x, y, score) per joint, in pixels of the picture, best first, scores from `threshold` on.
        """
        batch = torch.stack([to_input(image, self.image_size) for image in images]).to(self.head.mean.device)
        source = encoder.at(self.level) if isinstance(encoder, PixelEncoder) else encoder
        return self.read(source.features(batch), [image.shape[:2] for image in images])

    def read(self, features: Tensor, sizes: Sequence[tuple[int, ...]]) -> list[Any]:
        """What the head finds in features [B, C, h, w] of its `level`, of pictures of these (height, width)."""
        found = self.find(features.to(self.head.mean), sizes)
        return found if self.task == "segmentation" else [self.sure(picture) for picture in found]

    @torch.no_grad()
    def find(self, features: Tensor, sizes: Sequence[tuple[int, ...]]) -> list[Any]:
        """As `read`, of features on the head's device, with key points of any score."""
        maps = self.head(features)
        if self.task == "segmentation":
            return [class_ids(row, size).numpy() for row, size in zip(maps, sizes, strict=True)]
        maps = upsample(maps, heatmap_size(self.image_size, self.feature_stride)).cpu()
        return [detect(row, (size[0], size[1]), self.max_instances) for row, size in zip(maps, sizes, strict=True)]

    def sure(self, found: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """Of the points per joint [P, 3] those whose score reaches the threshold."""
        return [joint[joint[:, 2] >= (self.threshold or 0.0)] for joint in found]


def class_ids(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Class ids int64 [H, W] on the CPU, at the given (height, width), from class scores [K, h, w]."""
    full = F.interpolate(maps[None].float(), size=tuple(size[:2]), mode="bilinear", align_corners=False)
    return full[0].argmax(0).cpu()


def weights_hash(encoder: Any) -> str:
    """SHA-256 over the names and values of a backbone's weights, "" for one that is no module."""
    if not isinstance(encoder, torch.nn.Module):
        return ""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_head(saved: SavedHead, out: Path) -> Path:
    """Writes a head below the folder of its probe; returns the path of its JSON file."""
    path = out / saved.file
    state = {name: value.detach().cpu().contiguous() for name, value in saved.head.state_dict().items()}
    write_bytes(path.with_suffix(".safetensors"), save(state, {"format": "pt"}))
    facts = {f.name: getattr(saved, f.name) for f in dataclasses.fields(saved) if f.name != "head"}
    return write_json(path, {"format": FORMAT, "channels": saved.head.mean.shape[1]} | facts)


def load_head(probe: Path | str, labels: int | None = None, seed: int | None = None, encoder: Any = None) -> SavedHead:
    """A head of the pretrained backbone that `laparoflow probe` trained, in eval mode on the CPU.

    Args:
        probe: folder of a probe, or the JSON file of one head, of any backbone.
        labels: the label budget; None takes the largest.
        seed: None takes the first.
        encoder: the backbone that it will be used with; its weights are compared with those that it was trained on.

    Raises:
        FileNotFoundError: no probe there, or no head of that budget and seed.
        ValueError: the file is damaged or no head of ours, or the backbone has other weights.

    Example:
        >>> encoder = load_encoder("run")                                           # doctest: +SKIP
        >>> head = load_head("probe", labels=22, encoder=encoder)                   # doctest: +SKIP
        >>> (mask,) = head.predict(encoder, [image])   # image uint8 [H, W, 3]      # doctest: +SKIP
        >>> head.names[mask[0, 0]]                                                  # doctest: +SKIP
        'background'
    """
    path = _choose(Path(probe), labels, seed) if Path(probe).is_dir() else Path(probe)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        state = load(path.with_suffix(".safetensors").read_bytes())
        if facts.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        head = Head(torch.zeros(1, facts.pop("channels"), 1, 1), len(facts["names"]), facts["kind"])
        head.load_state_dict(state)
        facts |= {"names": tuple(facts["names"]), "image_size": tuple(facts["image_size"])}
        saved = SavedHead(head.eval().requires_grad_(False), **facts)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"probe: there is no head {error.filename}") from error
    except (AttributeError, KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"probe: {path} is not a head that this version can use: {error}") from error
    if encoder is not None and weights_hash(encoder) != saved.encoder_hash:
        raise ValueError(f"probe: {path} was trained on a backbone with other weights than the one given")
    return saved


def _choose(probe: Path, labels: int | None, seed: int | None) -> Path:
    """The JSON file of the head that the arguments name, by the runs of metrics.json."""
    try:
        runs = json.loads((probe / "metrics.json").read_text(encoding="utf-8"))["runs"]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"probe: {probe} holds no metrics.json of `laparoflow probe`") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"probe: cannot read {probe / 'metrics.json'}: {error}") from error
    kept = [run for run in runs if run.get("head_file")]
    named = [run for run in kept if run["backbone"] == TRAINED and labels in (None, run["labels"])]
    fitting = [run for run in named if seed in (None, run["seed"])]
    if not fitting:
        there = ", ".join(f"{run['backbone']} {run['labels']} {run['seed']}" for run in kept) or "none"
        raise FileNotFoundError(
            f"probe: {probe} has no head of backbone {TRAINED!r} with labels {labels or 'any'} and seed "
            f"{'any' if seed is None else seed}; its heads (backbone, labels, seed): {there}"
        )
    return probe / max(fitting, key=lambda run: run["labels"])["head_file"]
