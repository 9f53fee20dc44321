"""The flow-weighted InfoNCE over two embedding maps, as methods use it.

guides [B, F, h, w] say what belongs together: flow (ours), coordinates (PixContrast), or both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from laparoflow.methods.base import MethodOutput
from laparoflow.methods.settings import ContrastSettings
from laparoflow_kernels import FlowInfoNCELoss

VARIANCE_FLOOR = 1e-8
"""Added to a channel's variance, for a frame without any kept pixel or with equal ones."""


class PixelContrast(nn.Module):
    """``FlowInfoNCELoss`` of query and key maps under a guide, with standardised channels, a learned temperature and logs.

    The bandwidth is in the guide's unit; ``symmetric`` contrasts both ways in one call.
    """

    def __init__(self, settings: ContrastSettings, kernel: str, bandwidth: float, symmetric: bool) -> None:
        super().__init__()
        self.settings, self.kernel, self.bandwidth = settings, kernel, bandwidth
        own = settings.scope in ("frame", "batch")  # negatives of this process alone
        self.loss = FlowInfoNCELoss(
            settings.temperature, bandwidth, flow_kernel=kernel, positives=settings.positives,
            negatives=settings.negatives, scope=settings.scope if own else "batch", symmetric=symmetric, return_stats=True,
            backend=settings.backend, over_processes="mean" if own else settings.scope, warn_share=None,
        )  # fmt: skip
        self.log_temperature: nn.Parameter | None = None
        if settings.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(settings.temperature)))

    def temperature(self) -> Tensor | float:
        """The temperature in use: a float, or a 0-d tensor with a gradient."""
        if self.log_temperature is None:
            return self.settings.temperature
        return self.log_temperature.exp().clamp(0.01, 1.0)

    def forward(
        self, query: Tensor, key: Tensor, query_guide: Tensor, key_guide: Tensor, query_mask: Tensor, key_mask: Tensor
    ) -> MethodOutput:
        """Loss over all pairs of pixels of a frame.

        Args:
            query, key: embeddings [B, D, h, w] and [B, D, h', w'], normalised here.
            query_guide, key_guide: [B, F, h, w] and [B, F, h', w'].
            query_mask, key_mask: bool [B, h, w] and [B, h', w'], True = keep.

        Returns:
            The loss (as the joint batch of all processes has it) and: ``excess`` (loss above its floor: for
            positives outside that is the entropy of the weights, for positives inside it is 0),
            ``weight_entropy``, ``valid`` (share of queries that count), ``temperature``.
        """
        query, key = query.float(), key.float()
        if self.settings.standardise:
            query, key = standardised(query, key, query_mask, key_mask)
        temperature = self.temperature()
        loss, stats = self.loss(query, key, query_guide, key_guide, query_mask, key_mask, temperature=temperature)
        rows = stats.rows
        sides = [rows] if stats.columns is None else [rows, stats.columns]  # as the loss: the mean of both directions
        outside = self.settings.positives == "outside"
        above = [(side.excess if outside else side.loss).sum() / side.valid.sum().clamp(min=1) for side in sides]
        logs = {
            "excess": torch.stack(above).mean(),
            "weight_entropy": (rows.entropy * rows.valid).sum() / rows.valid.sum().clamp(min=1),
            "valid": rows.valid.float().mean(),
            "temperature": torch.as_tensor(temperature).detach(),
        }
        return MethodOutput(loss, logs)


def standardised(query: Tensor, key: Tensor, query_mask: Tensor, key_mask: Tensor) -> list[Tensor]:
    """Both maps [B, D, h, w] with mean 0 and deviation 1 per channel over the pixels of a frame that masks [B, h, w] keep.

    Few large groups of positives are hard to start on: untrained vectors of a frame are nearly parallel, what differs
    between them is mostly noise, and the fastest way down is to shrink all differences, after which the loss is the
    logarithm of the number of pixels and its gradient nearly 0. Standardised, the differences cannot shrink.
    """
    both = torch.cat([query.flatten(2), key.flatten(2)], dim=2)
    kept = torch.cat([query_mask.flatten(1), key_mask.flatten(1)], dim=1)[:, None]
    count = kept.sum(dim=2, keepdim=True).clamp(min=1)
    both = both - both.where(kept, both.new_zeros(())).sum(dim=2, keepdim=True) / count
    variance = both.where(kept, both.new_zeros(())).square().sum(dim=2, keepdim=True) / count
    both = both * (variance + VARIANCE_FLOOR).rsqrt()
    parts = both.split([query.shape[2:].numel(), key.shape[2:].numel()], dim=2)
    return [part.reshape(like.shape) for part, like in zip(parts, (query, key), strict=True)]
