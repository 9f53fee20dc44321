"""The public operators: check the arguments, pack the batch, choose a backend, reduce.

Source: Laparoflow-SSL (Moens et al., MIDL 2024) gives the idea; docs/MATH.md has the formulas, and docs/FIDELITY.md says
which points are the paper's and which are ours.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from laparoflow_kernels import checks
from laparoflow_kernels.backends import choose_backend, reference, warn_of_dense_pairs
from laparoflow_kernels.loss_forms import FlowInfoNCEStats, RowStats, detached_row_stats, reduce_loss, weighted_loss
from laparoflow_kernels.packing import (
    TensorOrList,
    inverse_bandwidth,
    pack,
    pack_pairs,
    pack_sides,
    pack_weight,
    unpack,
)
from laparoflow_kernels.problem import FLOW_KERNELS, PairProblem

LossResult: TypeAlias = TensorOrList | tuple[TensorOrList, TensorOrList]


def flow_infonce(
    query: TensorOrList,
    key: TensorOrList,
    query_flow: TensorOrList,
    key_flow: TensorOrList,
    *,
    temperature: float | Tensor = 0.1,
    bandwidth: float | Tensor = 1.0,
    flow_kernel: str = "gaussian",
    positives: str = "outside",
    negatives: str = "all",
    scope: str = "frame",
    symmetric: bool = False,
    query_mask: TensorOrList | None = None,
    key_mask: TensorOrList | None = None,
    query_weight: TensorOrList | None = None,
    key_weight: TensorOrList | None = None,
    query_group: TensorOrList | None = None,
    key_group: TensorOrList | None = None,
    exclude_self: bool = False,
    reduction: str = "mean",
    return_stats: bool = False,
    normalized: bool = False,
    backend: str = "auto",
) -> LossResult | tuple[LossResult, FlowInfoNCEStats]:
    """InfoNCE over pixel pairs, each pair weighted by the difference of the optical flows of its two pixels::

        s_ij   = q_i . k_j / temperature
        w_ij   = phi(|f_i - g_j| / bandwidth), 0 across frames and for masked pixels
        loss_i = log sum_j n_ij exp(s_ij) - positive_i
        outside: positive_i = sum_j w_ij s_ij / sum_j w_ij        inside: positive_i = log sum_j w_ij exp(s_ij)

    No N x M matrix is held by the fused backends. Query pixels that are masked, have no positive (all weights 0) or an empty
    denominator add nothing and are left out of the mean; without a single valid query the loss is 0 with zero gradients and
    a warning (given where it costs no synchronisation: CPU tensors outside torch.compile).

    Args:
        query: embeddings of view 1, [B, N, D], float32, float64, bfloat16 or float16; expected to be unit vectors (any norm
            is computed as it comes). Or a list of B tensors [N_b, D] (frames of different sizes; then all are lists).
        key: embeddings of view 2, [B, M, D], same dtype and device.
        query_flow: [B, N, F], F in 1..8: the guide that weights pairs; plain optical flow (F = 2) in source-frame axes and
            pixels, sampled at each pixel's source coordinates. Any other guide (coordinates, depth) works. It has no
            gradient, and may not ask for one.
        key_flow: [B, M, F].
        temperature: a float or a tensor of one element > 0; a tensor may require a gradient. float32 knows a logit of unit
            vectors to 6e-8 / temperature, and the CPU kernels their gradients to a few times that; ``reference`` and
            ``triton`` keep gradients to 1.2e-7 / temperature squared. Below 1.2e-7 it is an error; float64 goes down to
            2.2e-16.
        bandwidth: a float or a [B] tensor > 0, in the unit of the flow. It has no gradient, and may not ask for one.
        flow_kernel: phi(r): "gaussian" exp(-r^2/2), "laplace" exp(-r), "cauchy" 1/(1+r^2), "tophat" [r <= 1], to a few
            roundings.
            Weights below 2^-126 count as 0.
        positives: "outside" or "inside" the logarithm.
        negatives: "all", or "dissimilar": denominator weights n_ij = 1 - w_ij.
        scope: denominator over the keys of the query's own "frame", or of the whole "batch".
        symmetric: the mean of both directions, from one pass over the pairs where that costs less than two.
        query_mask: [B, N] bool, True = keep. Masked pixels may hold anything, NaN included.
        key_mask: [B, M] bool.
        query_weight: [B, N], any float dtype, at least 0; may require a gradient. Each loss_i is multiplied by its weight,
            and the mean is sum(weight_i loss_i) / sum(weight_i) over the valid queries (0 where that sum is 0).
        key_weight: [B, M], the same for the other direction of the symmetric loss; None is 1.
        query_group, key_group: [B, N] and [B, M] integers, both or none: a pair of equal groups is neither positive nor
            negative, within a frame and, with scope="batch", across frames.
        exclude_self: the pair of a query and the key at its own place is left out: for one view against itself.
        reduction: "mean" over the valid queries, "sum" over them, or "none": [B, N] with 0 where not valid (a list for list
            inputs; for the symmetric loss the pair ([B, N], [B, M]) of both directions).
        return_stats: also return the row (and column) statistics, detached.
        normalized: a promise that all embeddings have at most unit norm; with a float temperature of at least 0.025 the GPU
            kernels then need no running maximum. Not checked.
        backend: "auto", "reference", "native" or "triton"; see ``backends()``.

    Returns:
        The loss: a 0-d tensor in float32 (float64 for float64 inputs), or as ``reduction="none"`` says; with
        ``return_stats=True`` the pair (loss, FlowInfoNCEStats).

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: a shape, device, option or value that cannot be, named with what was expected.
        BackendUnavailable: an explicit backend cannot run on these tensors; the message is the reason.

    Example:
        >>> q = torch.nn.functional.normalize(torch.randn(1, 100, 16), dim=-1).requires_grad_()
        >>> flow = torch.randn(1, 100, 2)
        >>> loss, stats = flow_infonce(q, q.detach(), flow, flow, return_stats=True)
        >>> loss.backward(); stats.rows.weight_sum.shape
        torch.Size([1, 100])
    """
    checks.check_loss_options(reduction=reduction)
    problem, weights, chosen = prepare(
        query, key, query_flow, key_flow, query_weight, key_weight, backend, query_mask=query_mask, key_mask=key_mask,
        temperature=temperature, bandwidth=bandwidth, flow_kernel=flow_kernel, positives=positives, negatives=negatives,
        scope=scope, symmetric=symmetric, normalized=normalized, query_group=query_group, key_group=key_group,
        exclude_self=exclude_self, weight_stats=return_stats,
    )  # fmt: skip
    value, stats = own_statistics(problem, weights, chosen, reduction)
    result: LossResult
    if value is not None:
        result = value
    else:
        losses = [weighted_loss(*side) for side in zip(stats, weights, strict=False)]
        if reduction == "none":
            result = loss_maps(losses, problem, query)
        else:
            reduced = [reduce_loss(loss, weight, reduction) for loss, weight in losses]
            result = sum(reduced[1:], reduced[0]) / len(reduced)
    if checks.values_readable(stats[0]) and (symmetric or not isinstance(result, Tensor) or not result.any()):
        counts = (weighted_loss(side.detach(), weight)[1] for side, weight in zip(stats, weights, strict=False))
        if any(not count.any() for count in counts):
            warn_that_nothing_counts(stacklevel=3)
    return (result, unpacked_stats(stats, problem, query)) if return_stats else result


def prepare(
    query: TensorOrList, key: TensorOrList, query_flow: TensorOrList, key_flow: TensorOrList,
    query_weight: TensorOrList | None, key_weight: TensorOrList | None, backend: str, **options: Any,
) -> tuple[PairProblem, list[Tensor | None], ModuleType]:  # fmt: skip
    """The packed problem, the weights of both sides and the backend; ``options`` are those of ``pack_pairs``."""
    problem = pack_pairs(query, key, query_flow, key_flow, **options)
    q, k = problem.query_frames, problem.key_frames
    if key_weight is not None and not problem.symmetric:
        raise ValueError("key_weight: expected None without symmetric=True, as keys have no loss of their own then")
    weights = [pack_weight("query", query_weight, q), pack_weight("key", key_weight, k)]
    chosen = choose_backend(backend, problem.query.device, problem.query.dtype, problem.query.shape[1])
    if backend == "auto" and chosen is reference and not torch.compiler.is_compiling():
        warn_of_dense_pairs(problem)
    return problem, weights, chosen


def own_statistics(
    problem: PairProblem, weights: list[Tensor | None], chosen: ModuleType, reduction: str
) -> tuple[Tensor | None, list[Tensor]]:
    """(The reduced loss where it comes in the same sweep, statistics [4, T] of each direction)."""
    if reduction != "none" and weights[0] is None and hasattr(chosen, "fused_loss"):
        fused = chosen.fused_loss(problem, reduction)
        if fused is not None:
            return fused[0], [fused[1]]
    rows, columns = chosen.statistics(problem)
    return None, [rows, columns] if problem.symmetric else [rows]


def loss_maps(losses: list[tuple[Tensor, Tensor]], problem: PairProblem, like: TensorOrList) -> LossResult:
    """What ``reduction="none"`` returns, from ``weighted_loss`` of each direction."""
    rows = unpack(losses[0][0], problem.query_frames.sizes, like)
    return (rows, unpack(losses[1][0], problem.key_frames.sizes, like)) if problem.symmetric else rows


def unpacked_stats(stats: list[Tensor], problem: PairProblem, like: TensorOrList) -> FlowInfoNCEStats:
    """What ``return_stats=True`` returns, from statistics [4, T] of each direction."""
    sides = zip(stats, (problem.query_frames, problem.key_frames), strict=False)
    found: Any = [[unpack(part, side.sizes, like) for part in detached_row_stats(packed)] for packed, side in sides]
    return FlowInfoNCEStats(RowStats(*found[0]), RowStats(*found[1]) if problem.symmetric else None)


def flow_weighted_sum(
    query_flow: TensorOrList,
    key_flow: TensorOrList,
    values: TensorOrList,
    *,
    bandwidth: float | Tensor = 1.0,
    flow_kernel: str = "gaussian",
    key_mask: TensorOrList | None = None,
    normalize: bool = False,
    backend: str = "auto",
) -> TensorOrList:
    """sum_j w_ij v_j over the keys of each frame, without the N x M matrix of weights.

    Args:
        query_flow: [B, N, F], F in 1..8, in source-frame pixels (or a list of [N_b, F]).
        key_flow: [B, M, F].
        values: [B, M, C], any float dtype; differentiable.
        bandwidth, flow_kernel, key_mask, backend: as in ``flow_infonce``.
        normalize: divide by sum_j w_ij (0 where that is 0): the flow-weighted mean.

    Returns:
        [B, N, C] in the dtype of ``values`` (a list of [N_b, C] for list inputs).

    Raises:
        TypeError, ValueError, BackendUnavailable: as ``flow_infonce``.

    Example:
        >>> flow = torch.zeros(1, 5, 2)  # equal flows: every weight is 1
        >>> flow_weighted_sum(flow, flow, torch.ones(1, 5, 1), normalize=True).flatten().tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    checks.check_option("flow_kernel", flow_kernel, FLOW_KERNELS)
    packed, key_sizes = pack("values", values)
    checks.check_dtype("values", packed)
    sides = pack_sides(query_flow, key_flow, None, key_mask, None, key_sizes, packed)
    chosen = choose_backend(backend, packed.device, packed.dtype, packed.shape[1])
    sums, weight_sum = chosen.weighted_sum(*sides, packed, inverse_bandwidth(bandwidth, *sides), flow_kernel)
    if normalize:
        sums = sums / torch.where(weight_sum > 0, weight_sum, torch.ones_like(weight_sum))[:, None]
    return unpack(sums.to(packed.dtype), sides[0].sizes, values)


def pairwise_flow_weights(
    query_flow: Tensor,
    key_flow: Tensor,
    *,
    bandwidth: float | Tensor = 1.0,
    flow_kernel: str = "gaussian",
    key_mask: Tensor | None = None,
) -> Tensor:
    """The dense pair weights [B, N, M] in [0, 1], for inspection and small sizes.

    Args, Raises: as ``flow_weighted_sum``; flows are tensors [B, N, F] and [B, M, F].

    Example:
        >>> pairwise_flow_weights(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0]]]), flow_kernel="cauchy").item()
        0.5
    """
    checks.check_option("flow_kernel", flow_kernel, FLOW_KERNELS)
    sides = pack_sides(query_flow, key_flow, None, key_mask, None, None, pack("query_flow", query_flow)[0])
    f, g = (side.flow.unflatten(0, (side.sizes.frames, side.sizes.largest)) for side in sides)
    if key_mask is not None:
        g = g.masked_fill(~key_mask[..., None], 0)
    w = reference.flow_weights(f, g, inverse_bandwidth(bandwidth, *sides), flow_kernel)
    return w if key_mask is None else w * key_mask[:, None, :]


def warn_that_nothing_counts(stacklevel: int) -> None:
    warnings.warn(
        "flow_infonce: no valid query (all masked, of weight 0, without a positive, or without a key): the loss is 0 with "
        "zero gradients; widen the bandwidth or check the masks",
        RuntimeWarning,
        stacklevel=stacklevel,
    )
