"""Training the backbone together with the head: fine-tuning, and the supervised network from scratch.

Each step takes a batch of labelled pictures, crops them (half to all of each side, at feature cells, so that a crop of
the picture is the same crop of its target), changes brightness and contrast, and, where the labels have no left and
right, mirrors them. AdamW, one cosine for backbone and head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from laparoflow.datasets.samples import FrameDataset
from laparoflow.probes.features import FeatureEncoder, to_input
from laparoflow.probes.heads import Head
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
    """Trains a copy of the backbone and a head on labelled frames.

    Args:
        encoder: where the backbone starts; left as it is.
        train: the labelled frames.
        target: training target of one sample, [..., h', w'] with h' and w' multiples of the feature map's.
        loss: (maps [B, K, h, w], targets) -> 0-d.
        size: (height, width) of the network's input.
        outputs: number of maps K.
        options: steps, rates, batch size, kind of head, device.
        seed: of head, order and augmentation.
        bias: initial bias of the head.
        mirror: whether pictures may be mirrored.

    Returns:
        The trained backbone and head, in eval mode.

    Raises:
        TypeError: the backbone is no module.
    """
    network = copy.deepcopy(encoder)
    if not isinstance(network, nn.Module):
        raise TypeError(f"encoder must be a torch.nn.Module to be trained, got {type(encoder).__name__}")
    samples = [train[index] for index in range(len(train))]
    images = torch.stack([to_input(sample.image, size) for sample in samples])
    targets = torch.stack([target(sample) for sample in samples])
    options = options.resolved()
    network.to(options.device).eval()
    with torch.no_grad():
        parts = images.split(options.batch_size)
        initial = torch.cat([network.features(part.to(options.device)).float().cpu() for part in parts])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(initial, outputs, options.head, bias).to(options.device).train()
    network.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if p.requires_grad], "lr": options.finetune_rate},
            {"params": head.parameters(), "lr": options.learning_rate / 5},
        ],
        weight_decay=options.weight_decay,
    )
    steps = options.finetune_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5 * (1 + math.cos(math.pi * k / steps)))
    order = torch.empty(0, dtype=torch.int64)
    batch = min(options.batch_size, len(images))
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(images), generator=generator)
        chosen, order = order[:batch], order[batch:]
        pictures, wanted = augment(images[chosen], targets[chosen], encoder.feature_stride, mirror, generator)
        maps = head(network.features(pictures.to(options.device)))
        optimizer.zero_grad(set_to_none=True)
        loss(maps, wanted.to(options.device)).backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False), head.eval()


def augment(images: Tensor, targets: Tensor, stride: int, mirror: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crops, mirrors and recolours a batch.

    Args:
        images: [B, 3, H, W].
        targets: [B, ..., h', w'] with h' and w' multiples of H / stride and W / stride.
        stride: of the feature cells, in pixels.
        mirror: whether pictures may be mirrored.
        generator: of all random numbers.

    Returns:
        Pictures [B, 3, H", W"] and targets cropped alike; all of a batch have one size, each its own place.
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
