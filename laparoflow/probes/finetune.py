"""Training the backbone together with the head: fine-tuning, and the supervised network from scratch.

Each step takes a batch of labelled pictures, crops them (half to all of each side, at feature cells, so that a crop of
the picture is the same crop of its target), changes brightness and contrast, and, where the labels have no left and
right, mirrors them. AdamW, one cosine for backbone and head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from laparoflow.datasets.samples import FrameDataset
from laparoflow.probes.features import FeatureEncoder, collect_features, to_input
from laparoflow.probes.heads import Head, initial_head, minimise
from laparoflow.probes.settings import ProbeOptions

SMALLEST_CROP = 0.5
JITTER = 0.2


def finetune(
    encoder: FeatureEncoder,
    train: FrameDataset[Any],
    target: Callable[[Any], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    size: tuple[int, int],
    outputs: int,
    options: ProbeOptions,
    seed: int,
    bias: float = 0.0,
    mirror: bool = True,
) -> tuple[FeatureEncoder, Head]:
    """A copy of the backbone, and a head, trained on labelled frames; both in eval mode.

    Args:
        encoder, train: where the backbone starts, which is left as it is; the labelled frames.
        target: training target of one sample, [..., h', w'] with h' and w' multiples of the feature map's.
        loss: (maps [B, K, h, w], targets) -> 0-d.
        size, outputs: (height, width) of the network's input, and number of maps K.
        options, seed: steps, rates, batch size, kind of head, device; seed of head, order and augmentation.
        bias, mirror: initial bias of the head, and whether pictures may be mirrored.
    """
    network = copy.deepcopy(encoder)
    if not isinstance(network, nn.Module):
        raise TypeError(f"encoder must be a torch.nn.Module to be trained, got {type(encoder).__name__}")
    options = options.resolved()
    network.to(options.device).eval()
    samples: Any = list(train)  # read once
    initial, targets = collect_features(network, samples, size, options.batch_size, options.device, target)
    images = torch.stack([to_input(sample.image, size) for sample in samples])
    generator = torch.Generator().manual_seed(seed)
    head = initial_head(initial, outputs, options.head, bias, seed).to(options.device).train()
    network.requires_grad_(True).train()

    def batch_loss(chosen: Tensor) -> Tensor:
        pictures, wanted = augment(images[chosen], targets[chosen], encoder.feature_stride, mirror, generator)
        return loss(head(network.features(pictures.to(options.device))), wanted.to(options.device))

    groups = [
        {"params": network.parameters(), "lr": options.finetune_rate},
        {"params": head.parameters(), "lr": options.learning_rate / 5},
    ]
    minimise(batch_loss, groups, len(images), options.finetune_steps, options, generator)
    return network.eval().requires_grad_(False), head.eval()


def augment(images: Tensor, targets: Tensor, stride: int, mirror: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crops, mirrors and recolours a batch.

    Pictures [B, 3, H, W] and targets [B, ..., h', w'], h' and w' multiples of H / stride and W / stride, are cropped alike;
    all of a batch have one size, each its own place.
    """

    def number() -> float:
        return float(torch.rand((), generator=generator))

    cells = (images.shape[-2] // stride, images.shape[-1] // stride)
    crop = [max(1, round(side * (SMALLEST_CROP + (1 - SMALLEST_CROP) * number()))) for side in cells]
    scale = (targets.shape[-2] // cells[0], targets.shape[-1] // cells[1])
    pictures, wanted = [], []
    for image, target in zip(images, targets, strict=True):
        top, left = (min(int(number() * (side - part + 1)), side - part) for side, part in zip(cells, crop, strict=True))
        piece = image[:, top * stride : (top + crop[0]) * stride, left * stride : (left + crop[1]) * stride]
        rows = slice(top * scale[0], (top + crop[0]) * scale[0])
        columns = slice(left * scale[1], (left + crop[1]) * scale[1])
        label = target[..., rows, columns]
        if mirror and number() < 0.5:
            piece, label = piece.flip(-1), label.flip(-1)
        contrast, brightness = (1 + JITTER * (2 * number() - 1) for _ in range(2))
        mean = piece.mean()
        pictures.append(((piece - mean) * contrast + mean * brightness).clamp(0, 1))
        wanted.append(label)
    return torch.stack(pictures), torch.stack(wanted)
