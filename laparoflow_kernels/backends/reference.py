"""The definition of truth: plain PyTorch that materialises every pair. Any device, any float dtype, autograd by PyTorch.

    s_ij = q_i . k_j / temperature         the product in the dtype of the inputs, all else in the accumulator dtype
    w_ij = phi(|f_i - g_j| / bandwidth)    0 across frames and for masked pixels
    n_ij = 1 or 1 - w_ij

Memory: several N x M matrices per frame (scope "batch": B N x B M).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from laparoflow_kernels.problem import (
    Cut,
    PackedFrames,
    PairProblem,
    accumulator_dtype,
    autocast_exists,
    cut,
    equal_frames,
)

TINY_WEIGHT = 2.0**-126  # weights below the smallest normal float32 are 0, in every dtype and backend
MAX_DIM: dict[str, int] = {}


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Always available."""
    return None


def flow_weights(query_flow: Tensor, key_flow: Tensor, inv_bandwidth: Tensor, flow_kernel: str) -> Tensor:
    """w [B, N, M] from flows [B, N, F] and [B, M, F] and 1 / bandwidth [B], or [B, N] where queries differ in it."""
    # one channel at a time: the sum of squares needs no [B, N, M, F] tensor, and the difference comes before the square
    r2 = torch.zeros((), dtype=query_flow.dtype, device=query_flow.device)
    for q, k in zip(query_flow.unbind(-1), key_flow.unbind(-1), strict=True):
        r2 = r2 + (q[:, :, None] - k[:, None, :]).square()
    per_query = inv_bandwidth[:, None, None] if inv_bandwidth.ndim == 1 else inv_bandwidth[:, :, None]
    r2 = r2 * per_query.square()
    if flow_kernel == "gaussian":
        w = torch.exp(-0.5 * r2)
    elif flow_kernel == "laplace":
        w = torch.exp(-r2.sqrt())
    elif flow_kernel == "cauchy":
        w = 1 / (1 + r2)
    else:
        w = (r2 <= 1 + 4 * torch.finfo(r2.dtype).eps).to(r2.dtype)  # r = 1 itself counts, however r2 is rounded
    return torch.where(w < TINY_WEIGHT, torch.zeros_like(w), w)


def _log_sum(s: Tensor, log_factor: Tensor, keep: Tensor) -> Tensor:
    """log sum_j factor_j exp(s_j) over the last dimension; -inf, with zero gradient, for a row where nothing is summed."""
    counted = keep & (log_factor > -torch.inf)
    some = counted.any(-1, keepdim=True)
    terms = torch.where(counted, s + torch.where(counted, log_factor, torch.zeros_like(log_factor)), -torch.inf)
    return torch.where(some[..., 0], torch.where(some, terms, torch.zeros_like(terms)).logsumexp(-1), -torch.inf)


def _stats(s: Tensor, w: Tensor, n: Tensor, keep: Tensor, positives: str) -> Tensor:
    """Statistics [4, B, N] over the last dimension of s, w, n [B, N, M]; rows that ``keep`` [B, N] drops are empty."""
    keep = keep[..., None]
    lse = _log_sum(s, n.log(), keep)
    w = torch.where(keep, w, torch.zeros_like(w))
    weight_sum = w.sum(-1)
    if positives == "inside":
        positive = _log_sum(s, w.log(), keep)
    else:
        # divided first: an upstream gradient over a tiny W may overflow
        share = w / torch.where(weight_sum > 0, weight_sum, torch.ones_like(weight_sum))[..., None]
        positive = (share * s).sum(-1)
    return torch.stack([lse, weight_sum, positive, torch.special.xlogy(w, w).sum(-1)])


def _pair_stats(
    problem: PairProblem, inv_bandwidth: Tensor, of_query: Cut, of_key: Cut, same_frame: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Row and column statistics [4, T] of a batch of equal frames, which are cut out of either side."""
    rows, columns = problem.query_frames, problem.key_frames
    q, f, q_keep, q_group = (of_query(x) for x in (problem.query, rows.flow, rows.keep(), rows.group))
    k, g, k_keep, k_group = (of_key(x) for x in (problem.key, columns.flow, columns.keep(), columns.group))
    q, k = (x.masked_fill(~keep[..., None], 0) for x, keep in ((q, q_keep), (k, k_keep)))
    f, g = (x.masked_fill(~keep[..., None], 0) for x, keep in ((f, q_keep), (g, k_keep)))
    s = torch.matmul(q, k.transpose(1, 2)).to(accumulator_dtype(q.dtype)) / problem.temperature
    w = flow_weights(f, g, inv_bandwidth, problem.flow_kernel)
    if same_frame is not None:
        w = w * same_frame
    keep_pair = q_keep[:, :, None] & k_keep[:, None, :]
    if q_group is not None:
        keep_pair = keep_pair & (q_group[:, :, None] != k_group[:, None, :])
    w = w * keep_pair
    n = (1 - w if problem.negatives == "dissimilar" else torch.ones_like(w)) * keep_pair
    stats = _stats(s, w, n, q_keep, problem.positives).flatten(1)
    if not problem.symmetric:
        return stats, stats.new_empty((4, 0))
    s, w, n = (x.transpose(1, 2) for x in (s, w, n))
    return stats, _stats(s, w, n, k_keep, problem.positives).flatten(1)


def _frame_ids(side: PackedFrames) -> Tensor:
    """The frame [T] of each pixel."""
    return torch.searchsorted(side.offsets, torch.arange(side.flow.shape[0], device=side.flow.device), right=True) - 1


def statistics(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Row statistics [4, Tq] and column statistics [4, Tk] ([4, 0] when not symmetric), differentiable."""
    kind = problem.query.device.type
    query, key = problem.query_frames, problem.key_frames
    same_frame: Tensor | None = None
    with torch.autocast(kind, enabled=False) if autocast_exists(kind) else nullcontext():
        runs: Iterable[tuple[Any, Cut, Cut]] = equal_frames(query.sizes, key.sizes)
        if problem.scope == "batch":
            # one [1, Tq, Tk] problem serves all frames: a weight needs the bandwidth of its query's frame, its key's too
            q_ids, k_ids = _frame_ids(query), _frame_ids(key)
            same_frame = (q_ids[:, None] == k_ids)[None]
            runs = [(q_ids[None], cut(0, 1, q_ids.shape[0]), cut(0, 1, k_ids.shape[0]))]
        parts = [_pair_stats(problem, problem.inv_bandwidth[at], rows, columns, same_frame) for at, rows, columns in runs]
        return torch.cat([rows for rows, _ in parts], 1), torch.cat([columns for _, columns in parts], 1)


def weighted_sum(query: PackedFrames, key: PackedFrames, values: Tensor, inv_bandwidth: Tensor, flow_kernel: str
                 ) -> tuple[Tensor, Tensor]:  # fmt: skip
    """sum_j w_ij v_j [Tq, C] and sum_j w_ij [Tq], frame by frame; values [Tk, C]."""
    dtype = accumulator_dtype(values.dtype)
    sums, totals = [], []
    for frames, cut_query, cut_key in equal_frames(query.sizes, key.sizes):
        f, g, v = cut_query(query.flow), cut_key(key.flow), cut_key(values)
        q_keep, k_keep = cut_query(query.keep()), cut_key(key.keep())
        f, g, v = (x.masked_fill(~keep[..., None], 0) for x, keep in ((f, q_keep), (g, k_keep), (v, k_keep)))
        w = flow_weights(f, g, inv_bandwidth[frames], flow_kernel) * (q_keep[:, :, None] & k_keep[:, None, :])
        sums.append((w @ v.to(dtype)).flatten(0, 1))
        totals.append(w.sum(-1).flatten())
    return torch.cat(sums), torch.cat(totals)
