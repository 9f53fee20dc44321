"""The flow-weighted InfoNCE over two embedding maps, as methods use it.

guides [B, F, h, w] say what belongs together: flow (ours), coordinates (PixContrast), or both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from laparoflow.methods.base import Method, MethodOutput, PixelView
from laparoflow.methods.gather import gather_batch, joint_mean, world_size
from laparoflow.methods.settings import ContrastSettings
from laparoflow_kernels import FlowInfoNCEStats, flow_infonce

VARIANCE_FLOOR = 1e-8
"""Added to a channel's variance, for a frame without any kept pixel or with equal ones."""


class PixelContrast(nn.Module):
    """Loss of query and key maps under a guide.

    Args:
        settings: options of the loss.
        kernel: weight of a distance between guides.
        bandwidth: distance at which the weight falls off, in the guide's unit.
    """

    def __init__(self, settings: ContrastSettings, kernel: str, bandwidth: float) -> None:
        super().__init__()
        if not settings.temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {settings.temperature}")
        if not bandwidth > 0:
            raise ValueError(f"bandwidth: expected a number above 0, got {bandwidth}")
        self.settings = settings
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.log_temperature: nn.Parameter | None = None
        if settings.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(settings.temperature)))

    def temperature(self) -> Tensor | float:
        """The temperature in use: a float, or a 0-d tensor with a gradient."""
        if self.log_temperature is None:
            return self.settings.temperature
        return self.log_temperature.exp().clamp(0.01, 1.0)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_guide: Tensor,
        key_guide: Tensor,
        query_mask: Tensor,
        key_mask: Tensor,
        symmetric: bool | None = None,
    ) -> MethodOutput:
        """Loss over all pairs of pixels of a frame.

        Args:
            query: embeddings [B, D, h, w]; normalised here.
            key: embeddings [B, D, h', w'].
            query_guide: [B, F, h, w].
            key_guide: [B, F, h', w'].
            query_mask: bool [B, h, w], True = keep.
            key_mask: bool [B, h', w'].
            symmetric: override of the setting.

        Returns:
            The loss (as the joint batch of all processes has it) and: ``excess`` (loss above its floor: for
            positives outside that is the entropy of the weights, for positives inside it is 0),
            ``weight_entropy``, ``valid`` (share of queries that count), ``temperature``.
        """
        maps = [query.float(), key.float()]
        if self.settings.standardise:
            maps = standardised(maps[0], maps[1], query_mask, key_mask)
        parts = [_pixels(F.normalize(x, dim=1)) for x in maps]
        parts += [_pixels(x.float()) for x in (query_guide, key_guide)]
        parts += [query_mask.flatten(1), key_mask.flatten(1)]
        gathered = self.settings.scope == "gathered"
        if gathered:
            parts = [gather_batch(part) for part in parts]
        both = self.settings.symmetric if symmetric is None else symmetric
        if gathered or world_size() == 1:
            return self._loss(parts, both, joint=True)
        output = self._loss(parts, False, joint=False)
        if not both:
            return output
        q, k, f, g, m, n = parts
        return mean_output(output, self._loss([k, q, g, f, n, m], False, joint=False))

    def _loss(self, parts: list[Tensor], symmetric: bool, joint: bool) -> MethodOutput:
        q, k, f, g, m, n = parts
        loss: Tensor
        stats: FlowInfoNCEStats
        loss, stats = flow_infonce(  # type: ignore[assignment]  # tensors in, so a tensor and statistics out
            q,
            k,
            f,
            g,
            temperature=self.temperature(),
            bandwidth=self.bandwidth,
            flow_kernel=self.kernel,
            positives=self.settings.positives,
            negatives=self.settings.negatives,
            scope="frame" if self.settings.scope == "frame" else "batch",
            symmetric=symmetric,
            query_mask=m,
            key_mask=n,
            reduction="mean" if joint else "sum",
            return_stats=True,
            backend=self.settings.backend,
            normalized=True,
        )
        rows = stats.rows
        count = rows.valid.sum()
        if not joint:
            loss = joint_mean(loss, count)
        kept = count.clamp(min=1)
        zero = torch.zeros_like(rows.entropy)
        sides = [rows] if stats.columns is None else [rows, stats.columns]  # as the loss: the mean of both directions
        outside = self.settings.positives == "outside"
        above = [(side.excess if outside else side.loss).sum() / side.valid.sum().clamp(min=1) for side in sides]
        logs = {
            "excess": torch.stack(above).mean(),
            "weight_entropy": torch.where(rows.valid, rows.entropy, zero).sum() / kept,
            "valid": rows.valid.float().mean(),
            "temperature": torch.as_tensor(self.temperature()).detach(),
        }
        return MethodOutput(loss, logs)


class ContrastMethod(Method):
    """A method whose loss is :class:`PixelContrast` of two views under some guide."""

    contrast: PixelContrast

    def contrast_views(self, first: PixelView, second: PixelView, guides: list[Tensor], masks: list[Tensor]) -> MethodOutput:
        """Loss of two views; with a teacher it encodes the keys, and each view is the query once."""
        queries = [self.encoder(first.image), self.encoder(second.image)]
        if self.teacher is None:
            return self.contrast(queries[0], queries[1], *guides, *masks)
        keys = [self.teach(first.image), self.teach(second.image)]
        one = self.contrast(queries[0], keys[1], *guides, *masks, symmetric=False)
        if not self.contrast.settings.symmetric:
            return one
        two = self.contrast(queries[1], keys[0], *guides[::-1], *masks[::-1], symmetric=False)
        return mean_output(one, two)


def mean_output(one: MethodOutput, two: MethodOutput) -> MethodOutput:
    """Mean of two losses and of their logs."""
    logs = {name: (value + two.logs[name]) / 2 for name, value in one.logs.items()}
    return MethodOutput((one.loss + two.loss) / 2, logs)


def standardised(query: Tensor, key: Tensor, query_mask: Tensor, key_mask: Tensor) -> list[Tensor]:
    """Both maps with mean 0 and deviation 1 per channel over the kept pixels of a frame in both.

    Few large groups of positives are hard to start on: untrained vectors of a frame are nearly parallel, what differs
    between them is mostly noise, and the fastest way down is to shrink all differences, after which the loss is the
    logarithm of the number of pixels and its gradient nearly 0. Standardised, the differences cannot shrink.

    Args:
        query: [B, D, h, w].
        key: [B, D, h', w'].
        query_mask: bool [B, h, w], True = keep.
        key_mask: bool [B, h', w'].
    """
    both = torch.cat([query.flatten(2), key.flatten(2)], dim=2)
    kept = torch.cat([query_mask.flatten(1), key_mask.flatten(1)], dim=1)[:, None]
    count = kept.sum(dim=2, keepdim=True).clamp(min=1)
    both = both - both.where(kept, both.new_zeros(())).sum(dim=2, keepdim=True) / count
    variance = both.where(kept, both.new_zeros(())).square().sum(dim=2, keepdim=True) / count
    both = both * (variance + VARIANCE_FLOOR).rsqrt()
    parts = both.split([query.shape[2:].numel(), key.shape[2:].numel()], dim=2)
    return [part.reshape(like.shape) for part, like in zip(parts, (query, key), strict=True)]


def _pixels(maps: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h * w, C]."""
    return maps.flatten(2).transpose(1, 2)
