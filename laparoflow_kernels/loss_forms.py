"""From row statistics to the loss: loss_i = lse_i - positive_i, in both forms.

    outside:  positive_i = sum_j w_ij s_ij / W_i
    inside:   positive_i = log sum_j w_ij exp(s_ij)

A query counts when its weight sum W_i is positive and its denominator is not empty; every other query adds nothing and is
left out of the mean.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STAT_LSE, STAT_WEIGHT_SUM, STAT_POSITIVE, STAT_WEIGHT_LOG_SUM = range(4)


class RowStats(NamedTuple):
    """Statistics of one direction, each [B, N] (a list of [N_b] for list inputs), without gradient.

    Attributes:
        lse: log of the denominator, -inf where it is empty or the query is masked.
        weight_sum: W, the sum of the pair weights.
        positive: the positive term; 0 (outside) or -inf (inside) where W is 0.
        entropy: entropy of the normalised pair weights w / W in nats; the loss of the outside form never falls below it.
        loss: lse - positive, 0 where not valid.
        valid: bool, the queries that count.
    """

    lse: Tensor
    weight_sum: Tensor
    positive: Tensor
    entropy: Tensor
    loss: Tensor
    valid: Tensor

    @property
    def excess(self) -> Tensor:
        """loss - entropy: for outside and all, the Kullback-Leibler divergence of the softmax from the pair weights."""
        return torch.where(self.valid, self.loss - self.entropy, torch.zeros_like(self.loss))


class FlowInfoNCEStats(NamedTuple):
    """Statistics of the rows (queries) and, for the symmetric loss, of the columns (keys)."""

    rows: RowStats
    columns: RowStats | None


def direction_loss(stats: Tensor) -> tuple[Tensor, Tensor]:
    """Per-pixel loss [T] and valid mask [T] bool from packed statistics [4, T]; differentiable in the statistics."""
    lse, positive = stats[STAT_LSE], stats[STAT_POSITIVE]
    valid = ~((stats[STAT_WEIGHT_SUM] <= 0) | (lse == -torch.inf))  # a NaN statistic counts, so that it shows in the loss
    # the inner where keeps -inf - -inf out of the graph, so that no 0 * nan comes back through it
    zero = torch.zeros_like(lse)
    return torch.where(valid, torch.where(valid, lse, zero) - torch.where(valid, positive, zero), zero), valid


def weighted_loss(stats: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight times loss [T], and the weight [T] that counts: 0 where the pixel is not valid, 1 where none is given."""
    loss, valid = direction_loss(stats)
    if weight is None:
        return loss, valid.to(loss.dtype)
    weight = torch.where(valid, weight, torch.zeros_like(weight))
    return weight * loss, weight


def reduce_loss(loss: Tensor, weight: Tensor, reduction: str) -> Tensor:
    """The sum of weighted losses [T], or their mean: that sum over the sum of the weights (0 when that is 0)."""
    total, share = loss.sum(), weight.sum()
    return total if reduction == "sum" else total / torch.where(share > 0, share, torch.ones_like(share))


def detached_row_stats(stats: Tensor) -> RowStats:
    """Packed [4, T] statistics as named rows, without gradient."""
    stats = stats.detach()
    lse, weight_sum, positive, weight_log_sum = stats.unbind(0)
    loss, valid = direction_loss(stats)
    safe_sum = torch.where(weight_sum > 0, weight_sum, torch.ones_like(weight_sum))
    entropy = torch.where(weight_sum > 0, safe_sum.log() - weight_log_sum / safe_sum, torch.zeros_like(lse))
    return RowStats(lse, weight_sum, positive, entropy, loss, valid)
