"""The loss over processes: the value and gradient of the joint batch, each process holding its own frames.

    lse_i = log( sum_{j here} n_ij exp(s_ij)  +  sum_{j elsewhere} exp(s_ij) )

A pair weight is 0 between frames, so that another process's keys only enlarge the denominator: neither their flow nor their
frame is needed, and the joint statistics are those of the local pairs with ``lse = logaddexp(lse_here, lse_elsewhere)``.
Groups go with the keys, as a mask does; what ``exclude_self`` leaves out lies within a process. Weights of the losses stay
with their pixels: the joint mean needs their sum alone.

``gathered``  every process holds all keys: [world x M, D]. One gather, one call over the pairs; the key gradient comes back
              by a reduce-scatter.
``ring``      at step s, process r works on the keys of process r - s, which arrive in two halves: one half is in flight
              while the other is in use. So a process holds its own keys and at most one other's. The backward pass lets
              the keys come by again, recomputes their log-sums and sends each half's key gradient straight home (at
              most three halves of key gradients are held besides the process's own).

``mean``      negatives stay in the process; the mean alone is over the queries of all processes. Two numbers are sent.

Bytes sent per process, forward: (world - 1) x M x D in the first two; the ring sends the keys again in its backward pass.
Processes may hold different numbers of frames and pixels (the gather then pads to the largest).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from laparoflow_kernels import checks
from laparoflow_kernels.functional import (
    LossResult,
    flow_infonce,
    loss_maps,
    own_statistics,
    prepare,
    unpacked_stats,
    warn_that_nothing_counts,
)
from laparoflow_kernels.loss_forms import STAT_LSE, FlowInfoNCEStats, weighted_loss
from laparoflow_kernels.packing import TensorOrList
from laparoflow_kernels.problem import FrameSizes, PackedFrames, PairProblem, accumulator_dtype

METHODS = ("gathered", "ring", "mean")


def distributed_flow_infonce(
    query: TensorOrList,
    key: TensorOrList,
    query_flow: TensorOrList,
    key_flow: TensorOrList,
    *,
    method: str = "ring",
    group: dist.ProcessGroup | None = None,
    scope: str = "batch",
    query_weight: TensorOrList | None = None,
    key_weight: TensorOrList | None = None,
    exclude_self: bool = False,
    reduction: str = "mean",
    return_stats: bool = False,
    backend: str = "auto",
    **options: Any,
) -> LossResult | tuple[LossResult, FlowInfoNCEStats]:
    """``flow_infonce`` of the batch that all processes hold together.

    Every process calls it with its own frames and the same options; inputs must agree over processes in which of them are
    given and which need a gradient. The value is the joint loss on every process. The gradients are scaled so that their
    *average* over processes, which DDP and FSDP take, is the gradient of the joint loss. Without a process group it is
    ``flow_infonce``. Not for torch.compile: keep the call outside the compiled part of the step.

    Args:
        query, key, query_flow, key_flow, query_weight, key_weight, exclude_self, backend: as ``flow_infonce``, of this
            process's frames; a mean is over the weights of all processes.
        method: "ring" (two processes' keys in memory), "gathered" (all of them; less to compute and to send), or "mean" (no
            negatives of other processes).
        group: process group; None is the default one.
        scope: "batch"; with method="mean" also "frame". The batch of "mean" is this process's.
        reduction: "mean" or "sum" over the joint batch; "none" gives this process's pixels, whose gradients are then
            *summed* over processes (multiply by the number of processes under DDP).
        return_stats: also this process's rows (and columns) with the joint denominators, detached.
        options: every other option of ``flow_infonce``. Groups are numbers that mean the same on all processes: pairs over
            processes are left out, too. symmetric takes two passes over the pairs, with "mean" one.

    Returns:
        As ``flow_infonce``.

    Raises:
        TypeError, ValueError, BackendUnavailable: as ``flow_infonce``; ValueError for an unknown method.

    Example:
        >>> q = torch.nn.functional.normalize(torch.randn(2, 9, 4), dim=-1)
        >>> flow = torch.randn(2, 9, 2)
        >>> distributed_flow_infonce(q, q, flow, flow).ndim  # one process
        0
    """
    checks.check_option("method", method, METHODS)
    checks.check_loss_options(reduction=reduction)
    check_scope(method, scope)
    options |= dict(scope=scope, exclude_self=exclude_self)
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return flow_infonce(
            query, key, query_flow, key_flow, query_weight=query_weight, key_weight=key_weight, reduction=reduction,
            return_stats=return_stats, backend=backend, **options,
        )  # fmt: skip
    problem, weights, chosen = prepare(
        query, key, query_flow, key_flow, query_weight, key_weight, backend, weight_stats=return_stats, **options
    )
    total: Tensor | None = None
    if method == "mean":
        total, stats = own_statistics(problem, weights, chosen, reduction if reduction == "none" else "sum")
    else:
        rows = replace(problem, symmetric=False)
        stats = [_joint_statistics(rows, not exclude_self, method, group, chosen)]
        if problem.symmetric:
            columns = replace(
                rows, query=rows.key, key=rows.query, query_frames=rows.key_frames, key_frames=rows.query_frames
            )
            stats.append(_joint_statistics(columns, not exclude_self, method, group, chosen))
    losses = [weighted_loss(*side) for side in zip(stats, weights, strict=False)]
    result: LossResult
    if reduction == "none":
        result = loss_maps(losses, problem, query)
    else:
        sums = [(loss.sum() if total is None else total, weight.sum()) for loss, weight in losses]
        result, counts = joint_value(sums, reduction, group)
        if checks.values_readable(counts) and bool((counts == 0).any()):
            warn_that_nothing_counts(stacklevel=3)
    return (result, unpacked_stats(stats, problem, query)) if return_stats else result


def check_scope(method: str, scope: str) -> None:
    """Refuses negatives of the own frame alone together with negatives of other processes."""
    if method != "mean" and scope != "batch":
        raise ValueError(f"scope: expected 'batch' with over_processes={method!r}, got {scope!r}")


def _joint_statistics(
    problem: PairProblem, grouped: bool, method: str, group: dist.ProcessGroup | None, chosen: ModuleType
) -> Tensor:
    """Joint statistics [4, T] of this process's rows, differentiable; ``grouped``: groups mean the same on all processes."""
    here, _ = chosen.statistics(problem)
    rows, columns = problem.query_frames, problem.key_frames
    row_group = rows.group if grouped else None

    def log_sum(q: Tensor, k: Tensor, t: Tensor, tags: list[Tensor]) -> Tensor:
        """lse [T] of the rows over keys of other frames, of whose pixels ``tags`` are the masks and the groups."""
        frames = _strangers(q, (rows.mask, row_group), k, tags)
        pairs = PairProblem(
            q, k, *frames, t, t.new_ones(2), "tophat", "outside", "all", "batch", False, problem.bounded,
            weight_stats=False,
        )  # fmt: skip
        stats: Tensor = chosen.statistics(pairs)[0]
        return stats[STAT_LSE]

    query, key, temperature = problem.query, problem.key, problem.temperature
    tags = [columns.keep()] if row_group is None or columns.group is None else [columns.keep(), columns.group]
    counts = _counts(key.shape[0], key.device, group)
    if method == "gathered":
        keys = _GatherOthers.apply(key, counts, group)
        elsewhere = log_sum(query, keys, temperature, [_gather_others(x, counts, group) for x in tags])
    else:
        elsewhere = _Ring.apply(query, key, temperature, tags, counts, group, log_sum)
    return torch.cat([_log_add(here[STAT_LSE], elsewhere)[None], here[STAT_LSE + 1 :]])


def _strangers(
    query: Tensor, query_tags: tuple[Tensor | None, Tensor | None], key: Tensor, key_tags: list[Tensor]
) -> tuple[PackedFrames, PackedFrames]:
    """Two frames, one with all queries, one with all keys: every pair weight is 0."""
    flow = query.new_zeros((query.shape[0] + key.shape[0], 1), dtype=accumulator_dtype(query.dtype))
    n, m = query.shape[0], key.shape[0]
    offsets = torch.tensor([[0, n, n], [0, 0, m]], device=query.device)
    key_mask, key_group = (*(x.contiguous() for x in key_tags), None)[:2]
    return (
        PackedFrames(flow[:n], query_tags[0], offsets[0], FrameSizes.of((n, 0)), query_tags[1]),
        PackedFrames(flow[n:], key_mask, offsets[1], FrameSizes.of((0, m)), key_group),
    )


def _log_add(a: Tensor, b: Tensor) -> Tensor:
    """logaddexp whose gradient is 0, not NaN, where both are -inf."""
    empty = (a == -torch.inf) & (b == -torch.inf)
    total = torch.logaddexp(a.masked_fill(empty, 0), b.masked_fill(empty, 0))
    return total.masked_fill(empty, -torch.inf)


def joint_value(
    parts: list[tuple[Tensor, Tensor]], reduction: str = "mean", group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor]:
    """From each process's own sums to the joint mean (or sum), the same on all; gradients are to be averaged over processes.

    Args:
        parts: (sum of this process's losses, their number or the sum of their weights), 0-d, of one or more losses, of
            whose results the mean is taken.
        reduction: "mean" or "sum".
        group: process group; None is the default one. Without a process group this process is all.

    Returns:
        The value, 0 where there is no loss at all, and the joint numbers [parts].
    """
    sums = torch.stack([torch.stack([total.detach(), count.detach().to(total.dtype)]) for total, count in parts])
    world = dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
    if world > 1:
        dist.all_reduce(sums, group=group)
    value = sums.new_zeros(())
    for (own, weight), (total, count) in zip(parts, sums.unbind(0), strict=True):
        scale = torch.ones_like(count) if reduction == "sum" else torch.where(count > 0, count, torch.ones_like(count))
        share = own * (world / scale)
        if reduction == "mean" and weight.requires_grad:  # the mean depends on the sum of the weights, too
            share = share - weight * (world * total / scale**2)
        value = value + (share + (total / scale - share).detach()) / len(parts)
    return value, sums[:, 1]


def _counts(count: int, device: torch.device, group: dist.ProcessGroup | None) -> list[int]:
    """Key pixels of every process, in rank order."""
    counts = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=device)
    counts[dist.get_rank(group)] = count
    dist.all_reduce(counts, group=group)
    return [int(c) for c in counts.tolist()]


def _gather_others(local: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """[T_r, ...] of every other process, in rank order -> [sum of T_r, ...]."""
    padded = local.new_zeros((max(counts), *local.shape[1:]))
    padded[: local.shape[0]] = local
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather([_bytes(part) for part in parts], _bytes(padded), group=group)
    rank = dist.get_rank(group)
    return torch.cat([part[:count] for r, (part, count) in enumerate(zip(parts, counts, strict=True)) if r != rank])


class _GatherOthers(torch.autograd.Function):
    """``_gather_others`` whose backward pass brings every process the sum of the gradients of its part."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
        ctx.counts, ctx.group = counts, group
        return _gather_others(local, counts, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        rank, counts, grad = dist.get_rank(ctx.group), ctx.counts, grads[0]
        before = sum(counts[:rank])
        own = grad.new_zeros((counts[rank], grad.shape[1]))
        total = torch.cat([grad[:before], own, grad[before:]]).to(accumulator_dtype(grad.dtype))
        if dist.get_backend(ctx.group) == "nccl" and len(set(counts)) == 1:
            own = total.new_empty(own.shape)
            dist.reduce_scatter_tensor(own, total, group=ctx.group)
        else:
            dist.all_reduce(total, group=ctx.group)
            own = total.split(counts)[rank]
        return own.to(grad.dtype), None, None


class _Ring(torch.autograd.Function):
    """lse [T] of the rows over all other processes' keys."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, temperature: Tensor, tags: list[Tensor], counts: list[int],
        group: dist.ProcessGroup | None, log_sum: Callable[[Tensor, Tensor, Tensor, list[Tensor]], Tensor],
    ) -> Tensor:  # fmt: skip
        key = key.contiguous()
        lse = temperature.new_full((query.shape[0],), -torch.inf)
        for visit in _visits(key, tags, counts, group):
            lse = _log_add(lse, log_sum(query, visit.key, temperature, visit.tags))
        ctx.save_for_backward(query, key, temperature, lse, *tags)
        ctx.counts, ctx.group, ctx.log_sum = counts, group, log_sum
        return lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, temperature, lse, *tags = ctx.saved_tensors
        needs, dtype = ctx.needs_input_grad[:3], temperature.dtype
        sums = [torch.zeros_like(x, dtype=dtype) if n else None for x, n in zip(ctx.saved_tensors, needs, strict=False)]
        safe_lse = lse.masked_fill(lse == -torch.inf, torch.inf)  # a row without a key has no share in any
        home: _Exchange | None = None
        for visit in _visits(key, tags, ctx.counts, ctx.group):
            with torch.enable_grad():
                visited = zip((query, visit.key, temperature), needs, strict=True)
                inputs = [x.detach().requires_grad_(need) for x, need in visited]
                part = ctx.log_sum(*inputs, visit.tags)
            grad = grads[0] * (part.detach() - safe_lse).exp()
            parts = iter(torch.autograd.grad(part, [x for x in inputs if x.requires_grad], grad))
            dquery, dkey, dtemperature = (next(parts) if need else None for need in needs)
            for total_grad, partial in ((sums[0], dquery), (sums[2], dtemperature)):
                if total_grad is not None and partial is not None:
                    total_grad += partial
            if sums[1] is not None and dkey is not None:
                _add(home, sums[1])
                # the gradient of the half in use goes to its owner; that of our own half comes from where it is in use
                start, stop = visit.sent
                coming = [dkey.new_empty((stop - start, dkey.shape[1]))]
                home = _Exchange([dkey], coming, visit.owner, visit.user, ctx.group)
                home.rows = (start, stop)
        if sums[1] is not None:
            _add(home, sums[1])
        results = [None if s is None else s.to(x.dtype) for s, x in zip(sums, ctx.saved_tensors, strict=False)]
        return (*results, None, None, None, None)


def _add(home: _Exchange | None, dkey: Tensor) -> None:
    """Wait for a half's key gradient from another process and add it."""
    if home is not None:
        home.wait()
        dkey[home.rows[0] : home.rows[1]] += home.received[0]


class _Exchange:
    """Tensors on their way to one process and from another."""

    def __init__(
        self, send: list[Tensor], receive: list[Tensor], to: int, source: int, group: dist.ProcessGroup | None
    ) -> None:
        self.received, self.rows = receive, (0, 0)
        self.sent = [x.contiguous() for x in send]  # kept alive until it has left
        peers = [dist.get_global_rank(group, r) if group is not None else r for r in (to, source)]
        operations = [dist.P2POp(dist.isend, _bytes(x), peers[0], group) for x in self.sent if x.numel()]
        operations += [dist.P2POp(dist.irecv, _bytes(x), peers[1], group) for x in receive if x.numel()]
        self.pending = dist.batch_isend_irecv(operations) if operations else []

    def wait(self) -> None:
        for work in self.pending:
            work.wait()
        self.pending = []


class _Visit(NamedTuple):
    """Half of process ``owner``'s keys with their tags, here now, while rows ``sent`` of ours are with process ``user``."""

    key: Tensor
    tags: list[Tensor]
    owner: int
    user: int
    sent: tuple[int, int]


def _visits(key: Tensor, tags: list[Tensor], counts: list[int], group: dist.ProcessGroup | None) -> Iterator[_Visit]:
    """The other processes' keys half by half; the next half is under way while one is in use."""
    rank, world = dist.get_rank(group), len(counts)
    longest = (max(counts) + 1) // 2
    buffers = [[x.new_empty((longest, *x.shape[1:])) for x in (key, *tags)] for _ in range(2)]  # in use, in flight

    def start(turn: int) -> tuple[_Exchange, _Visit]:
        step, half = divmod(turn, 2)
        owner, user = (rank - step - 1) % world, (rank + step + 1) % world
        begin, end = _half(counts[rank], half)
        first, last = _half(counts[owner], half)
        coming = [buffer[: last - first] for buffer in buffers[turn % 2]]
        exchange = _Exchange([x[begin:end] for x in (key, *tags)], coming, user, owner, group)
        return exchange, _Visit(coming[0], coming[1:], owner, user, (begin, end))

    turns = 2 * (world - 1)
    following = start(0)
    for turn in range(turns):
        exchange, visit = following
        exchange.wait()
        if turn + 1 < turns:
            following = start(turn + 1)
        yield visit


def _half(count: int, half: int) -> tuple[int, int]:
    return (0, count // 2) if half == 0 else (count // 2, count)


def _bytes(tensor: Tensor) -> Tensor:
    """The same memory as bytes, which every process group can send."""
    return tensor.view(torch.uint8)
