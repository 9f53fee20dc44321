"""Trainable heads on cached features, and the loop that trains them.

A head maps standardised features [B, C, h, w] to maps [B, K, h, w]; the mean and deviation per channel are those of
the labelled pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
    count = features.numel() // features.shape[1]
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in features.split(32):
        total += part.double().sum((0, 2, 3)).cpu()
    mean = (total / count).to(features.device)
    for part in features.split(32):
        squares += (part.double() - mean.view(1, -1, 1, 1)).square().sum((0, 2, 3)).cpu()
    deviation = (squares / count).sqrt().to(features.device)
    return mean.float().view(1, -1, 1, 1), deviation.float().view(1, -1, 1, 1)


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
    """Trains a head with AdamW and cosine decay on random batches of pictures.

    Args:
        features: [n, C, h, w].
        targets: [n, ...], what `loss` compares the head's maps with.
        outputs: number of maps.
        loss: (maps [B, K, h, w], targets [B, ...]) -> 0-d.
        options: kind of head, steps, rate, decay, batch size, device.
        seed: of the initial weights and the order; the caller's random state is left alone.
        bias: initial bias of the output.

    Returns:
        The head in eval mode, on `options.device`.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(features, outputs, options.head, bias)
    standard = head.standardise(features) if features.dtype == torch.float32 else None
    options = options.resolved()
    head = head.to(options.device).train()
    rate = options.learning_rate if options.head == "linear" else options.learning_rate / 5
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5 * (1 + math.cos(math.pi * k / options.steps)))
    order = torch.empty(0, dtype=torch.int64)
    batch = min(options.batch_size, len(features))
    for _ in range(options.steps):
        if len(order) < batch:
            order = torch.randperm(len(features), generator=generator)
        chosen, order = order[:batch], order[batch:]
        if standard is None:
            maps = head(features[chosen].to(options.device).float())
        else:
            maps = head.network(standard[chosen].to(options.device))
        optimizer.zero_grad(set_to_none=True)
        loss(maps, targets[chosen].to(options.device)).backward()
        optimizer.step()
        schedule.step()
    return head.eval()
