"""The public operators: check the arguments, pack the batch, choose a backend, reduce.

Source: Laparoflow-SSL (Moens et al., MIDL 2024) gives the idea; docs/MATH.md has the formulas, and docs/FIDELITY.md says
which points are the paper's and which are ours.
"""

from __future__ import annotations

import warnings
from typing import TypeAlias

import torch
from torch import Tensor

from laparoflow_kernels import checks
from laparoflow_kernels.backends import choose_backend, reference, warn_of_dense_pairs
from laparoflow_kernels.loss_forms import FlowInfoNCEStats, reduce_loss, weighted_loss
from laparoflow_kernels.packing import (
    TensorOrList,
    check_guides,
    inverse_bandwidth,
    pack,
    pack_frames,
    pack_pairs,
    pack_weight,
    unpack,
    unpack_stats,
)
from laparoflow_kernels.problem import (
    FLOW_KERNELS,
    accumulator_dtype,
)

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
        temperature: a float or a tensor of one element > 0; a tensor may require a gradient.
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
    checks.check_loss_options(
        flow_kernel=flow_kernel, positives=positives, negatives=negatives, scope=scope, reduction=reduction
    )  # fmt: skip
    problem = pack_pairs(
        query, key, query_flow, key_flow, query_mask=query_mask, key_mask=key_mask, temperature=temperature,
        bandwidth=bandwidth, flow_kernel=flow_kernel, positives=positives, negatives=negatives, scope=scope,
        symmetric=symmetric, normalized=normalized, query_group=query_group, key_group=key_group, exclude_self=exclude_self,
        weight_stats=return_stats,
    )  # fmt: skip
    q, k = problem.query_frames, problem.key_frames
    if key_weight is not None and not symmetric:
        raise ValueError("key_weight: expected None without symmetric=True, as keys have no loss of their own then")
    weights = [pack_weight("query", query_weight, q), pack_weight("key", key_weight, k)]
    chosen = choose_backend(backend, problem.query.device, problem.query.dtype, problem.query.shape[1])
    if backend == "auto" and chosen is reference and not torch.compiler.is_compiling():
        warn_of_dense_pairs(problem)

    fused = None
    if reduction != "none" and query_weight is None and hasattr(chosen, "fused_loss"):
        fused = chosen.fused_loss(problem, reduction)
    result: LossResult
    columns = None
    if fused is not None:
        result, rows = fused
    else:
        rows, column_stats = chosen.statistics(problem)
        columns = column_stats if symmetric else None
        sides = [(rows, weights[0], q)] + ([(columns, weights[1], k)] if symmetric else [])
        losses = [(*weighted_loss(stats, weight), frames.sizes) for stats, weight, frames in sides]
        if reduction == "none":
            unpacked = [unpack(loss, sizes, query) for loss, _, sizes in losses]
            result = (unpacked[0], unpacked[1]) if symmetric else unpacked[0]
        else:
            reduced = [reduce_loss(loss, weight, reduction) for loss, weight, _ in losses]
            result = sum(reduced[1:], reduced[0]) / len(reduced)
    if checks.values_readable(rows) and (columns is not None or not isinstance(result, Tensor) or not result.any()):
        _warn_if_nothing_counts([rows] if columns is None else [rows, columns], weights)
    if not return_stats:
        return result
    row_stats = unpack_stats(rows, q.sizes, query)
    return result, FlowInfoNCEStats(row_stats, None if columns is None else unpack_stats(columns, k.sizes, query))


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
    checks.check_float("values", packed)
    dtype, device = accumulator_dtype(packed.dtype), packed.device
    _, query_sizes = pack("query_flow", query_flow)
    query_frames = pack_frames("query", query_flow, None, query_sizes, dtype, device)
    key_frames = pack_frames("key", key_flow, key_mask, key_sizes, dtype, device)
    check_guides(query_frames, key_frames)
    chosen = choose_backend(backend, device, packed.dtype, packed.shape[1])
    inv_bandwidth = inverse_bandwidth(bandwidth, query_sizes.frames, dtype, device)
    sums, weight_sum = chosen.weighted_sum(query_frames, key_frames, packed, inv_bandwidth, flow_kernel)
    if normalize:
        sums = sums / torch.where(weight_sum > 0, weight_sum, torch.ones_like(weight_sum))[:, None]
    return unpack(sums.to(packed.dtype), query_sizes, values)


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
    packed, query_sizes = pack("query_flow", query_flow)
    _, key_sizes = pack("key_flow", key_flow)
    dtype, device = accumulator_dtype(packed.dtype), packed.device
    query_frames = pack_frames("query", query_flow, None, query_sizes, dtype, device)
    key_frames = pack_frames("key", key_flow, key_mask, key_sizes, dtype, device)
    check_guides(query_frames, key_frames)
    batch = query_sizes.frames
    f, g = (frames.flow.reshape(batch, frames.sizes.largest, frames.flow.shape[1]) for frames in (query_frames, key_frames))
    if key_mask is not None:
        g = g.masked_fill(~key_mask[..., None], 0)
    w = reference.flow_weights(f, g, inverse_bandwidth(bandwidth, batch, dtype, device), flow_kernel)
    return w if key_mask is None else w * key_mask[:, None, :]


def _warn_if_nothing_counts(sides: list[Tensor], weights: list[Tensor | None]) -> None:
    for stats, weight in zip(sides, weights, strict=False):
        if not bool(weighted_loss(stats.detach(), weight)[1].any()):
            warn_that_nothing_counts(stacklevel=4)
            return


def warn_that_nothing_counts(stacklevel: int) -> None:
    warnings.warn(
        "flow_infonce: no valid query (all masked, of weight 0, without a positive, or without a key): the loss is 0 with "
        "zero gradients; widen the bandwidth or check the masks",
        RuntimeWarning,
        stacklevel=stacklevel,
    )
