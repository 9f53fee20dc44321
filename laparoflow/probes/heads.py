"""Trainable heads on cached features, and the loop that trains them.

A head maps standardised features [B, C, h, w] to maps [B, K, h, w]; the mean and deviation per channel are those of
the labelled pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from laparoflow.probes.settings import ProbeOptions


class Head(nn.Module):
    """Standardisation and a small network.

    Args:
        features: the labelled pictures' features [n, C, h, w], for their mean and deviation.
        outputs: number of maps K.
        kind: "linear" (one 1x1 convolution) or "conv" (two 3x3 convolutions of width 128 and one 1x1).
        bias: initial bias of the output.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: Tensor, outputs: int, kind: str, bias: float = 0.0) -> None:
        super().__init__()
        mean, deviation = moments(features)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation.clamp_min(1e-6 * float(deviation.max().clamp_min(1e-12))))
        channels = features.shape[1]
        last = nn.Conv2d(channels if kind == "linear" else CONV_WIDTH, outputs, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
        if kind == "linear":
            self.network: nn.Module = last
        elif kind == "conv":
            nn.init.normal_(last.weight, std=0.01)
            self.network = nn.Sequential(_block(channels), _block(CONV_WIDTH), last)
        else:
            raise ValueError(f"kind must be linear or conv, got {kind!r}")

    def standardise(self, features: Tensor) -> Tensor:
        """[B, C, h, w] with mean 0 and deviation 1 per channel over the labelled pictures."""
        return (features - self.mean) / self.deviation

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, K, h, w]."""
        return self.network(self.standardise(features))


CONV_WIDTH = 128


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation per channel of features [n, C, h, w], float32 [1, C, 1, 1], summed in float64."""
    count, parts = features.numel() // features.shape[1], features.split(32)
    none = torch.zeros(1, features.shape[1], 1, 1, dtype=torch.float64, device=features.device)
    mean = sum((part.double().sum((0, 2, 3), keepdim=True) for part in parts), none) / count
    squares = sum(((part.double() - mean).square().sum((0, 2, 3), keepdim=True) for part in parts), none)
    return mean.float(), (squares / count).sqrt().float()


def _block(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, CONV_WIDTH, 3, padding=1, padding_mode="replicate"),
        nn.GroupNorm(8, CONV_WIDTH),
        nn.GELU(),
    )


def train_head(
    features: Tensor,
    targets: Tensor,
    outputs: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    options: ProbeOptions,
    seed: int,
    bias: float = 0.0,
) -> Head:
    """A head with so many maps, trained on features [n, C, h, w] and targets [n, ...]; in eval mode on the options' device.

    ``loss`` compares maps [B, K, h, w] and targets [B, ...]. The seed is of the initial weights and the order.
    """
    head = initial_head(features, outputs, options.head, bias, seed)
    standard = head.standardise(features) if features.dtype == torch.float32 else None
    options = options.resolved()
    device = options.device
    head = head.to(device).train()
    rate = options.learning_rate if options.head == "linear" else options.learning_rate / 5

    def batch_loss(chosen: Tensor) -> Tensor:
        if standard is None:
            maps = head(features[chosen].to(device).float())
        else:
            maps = head.network(standard[chosen].to(device))
        return loss(maps, targets[chosen].to(device))

    groups = [{"params": head.parameters(), "lr": rate}]
    minimise(batch_loss, groups, len(features), options.steps, options, torch.Generator().manual_seed(seed))
    return head.eval()


def initial_head(features: Tensor, outputs: int, kind: str, bias: float, seed: int) -> Head:
    """A `Head` whose weights the seed decides; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(features, outputs, kind, bias)


def minimise(
    loss: Callable[[Tensor], Tensor],
    groups: list[dict[str, Any]],
    count: int,
    steps: int,
    options: ProbeOptions,
    generator: torch.Generator,
) -> None:
    """AdamW with cosine decay; ``loss`` takes the places of a random batch among ``count`` pictures, int64 [B]."""
    optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5 * (1 + math.cos(math.pi * k / steps)))
    order = torch.empty(0, dtype=torch.int64)
    batch = min(options.batch_size, count)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(count, generator=generator)
        chosen, order = order[:batch], order[batch:]
        optimizer.zero_grad(set_to_none=True)
        loss(chosen).backward()
        optimizer.step()
        schedule.step()
