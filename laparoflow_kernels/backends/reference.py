"""The definition of truth: plain PyTorch that materialises every pair. Any device, any float dtype, autograd by PyTorch.

    s_ij = q_i . k_j / temperature         the product in the dtype of the inputs, all else in the accumulator dtype
    w_ij = phi(|f_i - g_j| / bandwidth)    0 across frames and for masked pixels
    n_ij = 1 or 1 - w_ij

Memory: several N x M matrices per frame (scope "batch": B N x B M).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from laparoflow_kernels.problem import FrameSizes, PackedFrames, PairProblem, accumulator_dtype, autocast_exists

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


def _keep(mask: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones(like.shape[:2], dtype=torch.bool, device=like.device) if mask is None else mask


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


def _batch_stats(
    problem: PairProblem, q: Tensor, k: Tensor, f: Tensor, g: Tensor, inv_bandwidth: Tensor,
    q_mask: Tensor | None, k_mask: Tensor | None, q_group: Tensor | None, k_group: Tensor | None, same_frame: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Row and column statistics [4, B, N], [4, B, M] of a batch of equal frames."""
    q_keep, k_keep = _keep(q_mask, q), _keep(k_mask, k)
    q, k = (x.masked_fill(~keep[..., None], 0) for x, keep in ((q, q_keep), (k, k_keep)))
    f, g = (x.masked_fill(~keep[..., None], 0) for x, keep in ((f, q_keep), (g, k_keep)))
    s = torch.matmul(q, k.transpose(1, 2)).to(accumulator_dtype(q.dtype)) / problem.temperature
    w = flow_weights(f, g, inv_bandwidth, problem.flow_kernel)
    if same_frame is not None:
        w = w * same_frame
    keep_pair = q_keep[:, :, None] & k_keep[:, None, :]
    if q_group is not None and k_group is not None:
        keep_pair = keep_pair & (q_group[:, :, None] != k_group[:, None, :])
    w = w * keep_pair
    n = (1 - w if problem.negatives == "dissimilar" else torch.ones_like(w)) * keep_pair
    rows = _stats(s, w, n, q_keep, problem.positives)
    if not problem.symmetric:
        return rows, rows.new_empty((4, 0))
    columns = _stats(s.transpose(1, 2), w.transpose(1, 2), n.transpose(1, 2), k_keep, problem.positives)
    return rows, columns


def _frame_ids(side: PackedFrames) -> Tensor:
    """The frame [T] of each pixel."""
    ids = torch.arange(side.sizes.frames, device=side.flow.device)
    if side.sizes.each is None:
        return ids[:, None].expand(side.sizes.frames, side.sizes.largest).flatten()
    counts = torch.tensor(side.sizes.each, device=ids.device)
    return torch.repeat_interleave(ids, counts, output_size=side.flow.shape[0])


def statistics(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Row statistics [4, Tq] and column statistics [4, Tk] ([4, 0] when not symmetric), differentiable."""
    kind = problem.query.device.type
    with torch.autocast(kind, enabled=False) if autocast_exists(kind) else nullcontext():
        if problem.scope == "batch":
            return _batch_scope(problem)
        return _frame_scope(problem)


def _lead(x: Tensor | None) -> Tensor | None:
    return None if x is None else x[None]


def _batch_scope(problem: PairProblem) -> tuple[Tensor, Tensor]:
    q, k = problem.query_frames, problem.key_frames
    q_ids, k_ids = _frame_ids(q), _frame_ids(k)
    # one [1, Tq, Tk] problem serves all frames: a weight needs the bandwidth of its query's frame, which is its key's too
    rows, columns = _batch_stats(
        problem, problem.query[None], problem.key[None], q.flow[None], k.flow[None], problem.inv_bandwidth[q_ids][None],
        _lead(q.mask), _lead(k.mask), _lead(q.group), _lead(k.group),
        (q_ids[:, None] == k_ids[None, :])[None],
    )  # fmt: skip
    return rows.flatten(1), columns.flatten(1)


def _frame_scope(problem: PairProblem) -> tuple[Tensor, Tensor]:
    rows, columns = [], []
    q, k = problem.query_frames, problem.key_frames
    for frames, cut_query, cut_key in _equal_frames(q.sizes, k.sizes):
        r, c = _batch_stats(
            problem, cut_query(problem.query), cut_key(problem.key), cut_query(q.flow), cut_key(k.flow),
            problem.inv_bandwidth[frames], cut_query(q.mask), cut_key(k.mask), cut_query(q.group), cut_key(k.group), None,
        )  # fmt: skip
        rows.append(r.flatten(1))
        columns.append(c.flatten(1))
    return torch.cat(rows, 1), torch.cat(columns, 1)


def _equal_frames(query: FrameSizes, key: FrameSizes) -> Iterator[tuple[slice, Callable[..., Any], Callable[..., Any]]]:
    """Runs of frames that are equal on both sides: their indices, and for either side the cut [T, ...] -> [frames, N, ...].

    That is all frames at once, or each alone.
    """

    def cut(start: int, frames: int, size: int) -> Callable[..., Any]:
        return lambda x: None if x is None else x[start : start + frames * size].reshape(frames, size, *x.shape[1:])

    if query.each is None and key.each is None:
        yield slice(None), cut(0, query.frames, query.largest), cut(0, key.frames, key.largest)
        return
    q_start = k_start = 0
    for b in range(query.frames):
        n, m = (sizes.largest if sizes.each is None else sizes.each[b] for sizes in (query, key))
        yield slice(b, b + 1), cut(q_start, 1, n), cut(k_start, 1, m)
        q_start, k_start = q_start + n, k_start + m


def weighted_sum(query: PackedFrames, key: PackedFrames, values: Tensor, inv_bandwidth: Tensor, flow_kernel: str
                 ) -> tuple[Tensor, Tensor]:  # fmt: skip
    """sum_j w_ij v_j [Tq, C] and sum_j w_ij [Tq], frame by frame; values [Tk, C]."""
    dtype = accumulator_dtype(values.dtype)
    sums, totals = [], []
    for frames, cut_query, cut_key in _equal_frames(query.sizes, key.sizes):
        f, g, v = cut_query(query.flow), cut_key(key.flow), cut_key(values)
        q_keep, k_keep = _keep(cut_query(query.mask), f), _keep(cut_key(key.mask), g)
        f, g, v = (x.masked_fill(~keep[..., None], 0) for x, keep in ((f, q_keep), (g, k_keep), (v, k_keep)))
        w = flow_weights(f, g, inv_bandwidth[frames], flow_kernel) * (q_keep[:, :, None] & k_keep[:, None, :])
        sums.append((w @ v.to(dtype)).flatten(0, 1))
        totals.append(w.sum(-1).flatten())
    return torch.cat(sums), torch.cat(totals)
