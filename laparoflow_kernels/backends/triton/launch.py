"""Host code of the Triton operators: shapes to grids, options to compile-time constants, buffers, launches.

All tensors are packed over the batch: query [Tq, D], key [Tk, D], flows [Tq, F], [Tk, F]; frame b owns the rows
offsets[b]:offsets[b + 1]. Launches go to the current stream of the tensors' device; nothing waits for the device
except the tuning of ``tiles``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from . import tiles
from .coefficients_kernel import coefficients_kernel
from .finish_kernel import finish_kernel
from .gradient_kernels import backward_kernel
from .statistics_kernels import forward_kernel
from .tiles import Tile
from .weight_operands_kernel import weight_operands_kernel
from .weighted_sum_kernel import weighted_sum_kernel

Pair = tuple[Tensor, Tensor]
Optionals = tuple[Tensor | None, Tensor | None]
Operands = tuple[Optionals, Optionals, tuple[int, int]]

MAX_DIMENSIONS = 256
MAX_FLOW = 8
MAX_SLOTS = 64
MAX_SPLITS = 16
INSIDE_LIFT = 48.0
ROW_BLOCK = 256
HALF_LOG2_RANGE = 12
WEIGHT_LIFT = 2.0**24  # of float16: what the weights are multiplied with before they meet b / W, which is divided by it
OPERAND_CHUNK = 256  # rows of a chunk of weight_operands_kernel


def forward(
    query: Tensor, key: Tensor, query_flow: Tensor, key_flow: Tensor, temperature: Tensor, inv_bandwidth: Tensor,
    query_offsets: Tensor, key_offsets: Tensor, query_mask: Tensor | None, key_mask: Tensor | None,
    max_query: int, max_key: int, flow_kernel: str, positives: str, negatives: str, scope: str,
    symmetric: bool, bounded: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Row statistics [4, Tq] and, with symmetric, column statistics [4, Tk] (else [4, 0]).

    Rows are lse, weight_sum, positive, weight_log_sum, in float32 (float64 for float64 inputs, interpreter only).

    Raises:
        ValueError: D over 256, F over 8, or 2^31 rows or more.
    """
    check_sizes(query, key, query_flow)
    together = symmetric and bounded and tiles.one_pass_pays(product_class(query), tiles.capability_of(query.device))
    options: dict[str, Any] = dict(
        temperature=temperature, inv_bandwidth=inv_bandwidth, flow_kernel=flow_kernel, inside=positives == "inside",
        dissimilar=negatives == "dissimilar", batch=scope == "batch", bounded=bounded, symmetric=together,
    )  # fmt: skip
    operands, near, chunks = weight_operands(
        query, (query_flow, key_flow), (query_offsets, key_offsets), (query_mask, key_mask), (max_query, max_key),
        inv_bandwidth, flow_kernel, bounded, negatives == "dissimilar",
    )  # fmt: skip
    rows, columns = one_pass(
        (query, key), (query_flow, key_flow), (query_offsets, key_offsets), (query_mask, key_mask), (max_query, max_key),
        (operands, near, chunks), **options,
    )  # fmt: skip
    if symmetric and not together:
        columns, _ = one_pass(
            (key, query), (key_flow, query_flow), (key_offsets, query_offsets), (key_mask, query_mask),
            (max_key, max_query), (operands[::-1], near[::-1], chunks[::-1]), **options,
        )  # fmt: skip
    return rows, columns


def one_pass(
    embeddings: Pair, flows: Pair, offsets: Pair, masks: Optionals, largest: tuple[int, int],
    exponent_operands: Operands, temperature: Tensor, inv_bandwidth: Tensor, flow_kernel: str, inside: bool,
    dissimilar: bool, batch: bool, bounded: bool, symmetric: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Statistics of the first of each pair against the second, and with symmetric of the second against the first."""
    query, key = embeddings
    frames, total_query, total_key = offsets[0].numel() - 1, query.shape[0], key.shape[0]
    constants: dict[str, Any] = dict(
        D=query.shape[1], F=flows[0].shape[1], BLOCK_D=padded(query.shape[1]), FLOW_KERNEL=flow_kernel,
        INSIDE=inside, DISSIMILAR=dissimilar, BATCH=batch, SYMMETRIC=symmetric, BOUNDED=bounded,
        LIFT=INSIDE_LIFT if bounded and inside else 0.0, QUANTITIES=4 if bounded else 6 if inside else 5,
        PRECISION=input_precision(query),
    )  # fmt: skip
    operands, near, chunks = exponent_operands
    columns = total_key if symmetric else 0
    reach = total_key if batch else largest[1]

    def run(tile: Tile) -> tuple[Any, tuple[Tensor, Tensor]]:
        row_groups, splits = forward_grid(tile, frames, largest[0], reach, batch, symmetric, query.device)
        slots = row_groups * (frames if batch else 1)
        row_partial = torch.empty(
            (splits, int(constants["QUANTITIES"]), total_query), dtype=flows[0].dtype, device=query.device
        )
        column_partial = empty_partial(slots if symmetric else 1, columns, constants, flows[0])
        kernel = forward_kernel[(frames * row_groups, splits)](
            query, key, *flows, temperature, inv_bandwidth, *offsets, *masks, *operands, *near, row_partial, column_partial,
            total_query, total_key, row_groups, splits, *chunks, STAGES=tile.stages,
            LANES=lanes(tile, tiles.capability_of(query.device), operands[0] is not None), **meta(tile), **constants,
        )  # fmt: skip
        return kernel, (row_partial, column_partial)

    with on_device(query):
        if frames == 0 or largest[0] == 0:
            partials = tuple(empty_partial(1, total, constants, flows[0]) for total in (total_query, columns))
        else:
            _, partials = run(pick("symmetric" if symmetric else "forward", query, constants, total_query * reach, run))
        row_stats, column_stats = (
            finish(partial, mask, temperature, constants) for partial, mask in zip(partials, masks, strict=True)
        )
    return row_stats, column_stats


def weight_operands(
    query: Tensor, flows: Pair, offsets: Pair, masks: Optionals, largest: tuple[int, int], inv_bandwidth: Tensor,
    flow_kernel: str, bounded: bool, dissimilar: bool,
) -> Operands:  # fmt: skip
    """Operands [T, 16] of both sides, their flags [frames, chunks, 32], and chunks; None and 0 where exponents need none."""
    frames = offsets[0].numel() - 1
    capability = tiles.capability_of(query.device)
    options = flow_kernel, flows[0].shape[1], bounded, dissimilar
    if frames == 0 or not exponents_by_product(product_class(query), capability, *options):
        return (None, None), (None, None), (0, 0)
    chunks = triton.cdiv(largest[0], OPERAND_CHUNK), triton.cdiv(largest[1], OPERAND_CHUNK)
    with on_device(query):
        operands = tuple(torch.empty((f.shape[0], 16), dtype=torch.float16, device=f.device) for f in flows)
        near = tuple(torch.empty((frames, n, 32), dtype=torch.int32, device=query.device) for n in chunks)
        for side in (0, 1):
            if chunks[side]:
                weight_operands_kernel[(frames * chunks[side],)](
                    flows[0], offsets[0], masks[0], flows[side], offsets[side], masks[side], inv_bandwidth, operands[side],
                    near[side], chunks[side], F=flows[0].shape[1],
                )  # fmt: skip
    return operands, near, chunks  # type: ignore[return-value]


def finish(partial: Tensor, mask: Tensor | None, temperature: Tensor, constants: dict[str, Any]) -> Tensor:
    """Statistics [4, T] from partial sums [slots, quantities, T]."""
    slots, _, total = partial.shape
    stats = torch.empty((4, total), dtype=partial.dtype, device=partial.device)
    if total:
        names = ("INSIDE", "BOUNDED", "LIFT", "QUANTITIES")
        finish_kernel[(triton.cdiv(total, ROW_BLOCK),)](
            partial, mask, temperature, stats, total, slots, BLOCK=ROW_BLOCK, **{name: constants[name] for name in names}
        )
    return stats


def empty_partial(slots: int, total: int, constants: dict[str, Any], like: Tensor) -> Tensor:
    """Partial sums of nothing: zeros, and -inf for running maxima."""
    partial = torch.zeros((slots, constants["QUANTITIES"], total), dtype=like.dtype, device=like.device)
    partial[:, 4:].fill_(float("-inf"))
    return partial


def forward_grid(
    tile: Tile, frames: int, max_query: int, reach: int, batch: bool, symmetric: bool, device: torch.device
) -> tuple[int, int]:
    """Row groups per frame and splits of the (at most ``reach``) keys of a row, to fill the device twice over.

    One direction: a group is one row tile. Symmetric: every group has a slot of column sums, so groups are few and
    each takes several row tiles in turn.
    """
    groups = triton.cdiv(max_query, tile.block_m)
    if symmetric:
        groups = max(1, min(groups, MAX_SLOTS // frames if batch else MAX_SLOTS // 2))
    splits = triton.cdiv(2 * processors(device), frames * groups)
    return groups, max(1, min(splits, MAX_SPLITS, triton.cdiv(reach, tile.block_n)))


def backward(
    query: Tensor, key: Tensor, query_flow: Tensor, key_flow: Tensor, temperature: Tensor, inv_bandwidth: Tensor,
    query_offsets: Tensor, key_offsets: Tensor, query_mask: Tensor | None, key_mask: Tensor | None,
    max_query: int, max_key: int, flow_kernel: str, positives: str, negatives: str, scope: str,
    symmetric: bool, bounded: bool,
    row_stats: Tensor, column_stats: Tensor, row_grad: Tensor, column_grad: Tensor,
    need_query: bool, need_key: bool, need_temperature: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dquery [Tq, D], dkey [Tk, D], dtemperature []; what is not needed is empty ([0]) and not computed.

    Raises:
        ValueError: D over 256, F over 8, or 2^31 rows or more.
    """
    check_sizes(query, key, query_flow)
    frames = query_offsets.numel() - 1
    constants = dict(
        D=query.shape[1], F=query_flow.shape[1], BLOCK_D=padded(query.shape[1]), FLOW_KERNEL=flow_kernel,
        INSIDE=positives == "inside", DISSIMILAR=negatives == "dissimilar", BATCH=scope == "batch", BOUNDED=bounded,
        PRECISION=input_precision(query),
    )  # fmt: skip

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=query.device)

    with on_device(query):
        scale = gradient_scale(query, row_grad, column_grad)
        query_coefficients = coefficients(row_stats, row_grad, temperature, scale, constants, query.dtype)
        key_coefficients = query_coefficients
        if symmetric:
            key_coefficients = coefficients(column_stats, column_grad, temperature, scale, constants, query.dtype)
        operands, near, chunks = weight_operands(
            query, (query_flow, key_flow), (query_offsets, key_offsets), (query_mask, key_mask), (max_query, max_key),
            inv_bandwidth, flow_kernel, bounded, negatives == "dissimilar",
        )  # fmt: skip
        rows = (query, query_flow, query_offsets, query_mask, query_coefficients, max_query, operands[0], near[0], chunks[0])
        columns = (key, key_flow, key_offsets, key_mask, key_coefficients, max_key, operands[1], near[1], chunks[1])

        def side(own: tuple, other: tuple, is_query: bool, gradient: bool, temperature_too: bool) -> tuple[Tensor, Tensor]:
            own_gradient = torch.empty_like(own[0]) if gradient else empty(0, dtype=query.dtype)
            by_row = empty(own[0].shape[0] if temperature_too else 0, dtype=row_stats.dtype)
            if frames == 0 or own[5] == 0:
                return own_gradient, by_row
            options = dict(
                constants, OWN_TERMS=is_query or symmetric, OTHER_TERMS=not is_query or symmetric,
                ROWS=gradient, TEMPERATURE=temperature_too,
            )  # fmt: skip

            def run(tile: Tile) -> tuple[Any, None]:
                own_tiles = triton.cdiv(own[5], tile.block_m)
                kernel = backward_kernel[(frames * own_tiles,)](
                    own[0], other[0], own[1], other[1], temperature, inv_bandwidth, own[2], other[2], own[3], other[3],
                    own[6], other[6], own[7], other[7], own[4], other[4], scale, own_gradient, by_row,
                    own[0].shape[0], other[0].shape[0], own_tiles, own[8], other[8], **meta(tile), **options,
                )  # fmt: skip
                return kernel, None

            pairs = own[0].shape[0] * (other[0].shape[0] if scope == "batch" else other[5])
            run(pick("backward", query, options, pairs, run))
            return own_gradient, by_row

        unneeded = empty(0, dtype=query.dtype)
        dquery, dkey, by_row = unneeded, unneeded, empty(0, dtype=row_stats.dtype)
        if need_query or (need_temperature and not need_key):
            dquery, by_row = side(rows, columns, True, need_query, need_temperature)
        if need_key:
            dkey, by_key = side(columns, rows, False, True, need_temperature and not need_query)
            by_row = by_key if need_temperature and not need_query else by_row
        dtemperature = empty(0, dtype=row_stats.dtype)
        if need_temperature:
            sides = (query_coefficients, key_coefficients) if symmetric else (query_coefficients,)
            dtemperature = by_row.sum() - sum(side[5].sum() for side in sides) / temperature.square()
        return dquery, dkey, dtemperature


def coefficients(
    stats: Tensor, gradient: Tensor, temperature: Tensor, scale: Tensor, constants: dict[str, Any], dtype: torch.dtype
) -> Tensor:
    """Per-row coefficients [7, T] of the backward kernel from statistics [4, T] and upstream gradients [2, T]."""
    total = stats.shape[1]
    result = torch.empty((7, total), dtype=stats.dtype, device=stats.device)
    if total:
        coefficients_kernel[(triton.cdiv(total, ROW_BLOCK),)](
            stats, gradient.contiguous(), temperature, scale, result, total, BLOCK=ROW_BLOCK,
            INSIDE=constants["INSIDE"], BOUNDED=constants["BOUNDED"], LIFT=WEIGHT_LIFT if dtype == torch.float16 else 1.0,
        )  # fmt: skip
    return result


def gradient_scale(query: Tensor, row_grad: Tensor, column_grad: Tensor) -> Tensor:
    """A 0-d power of two that brings the largest upstream gradient to 2^12 for float16, 2^-12 for other dtypes.

    Below 2^-12, b / W is finite for every W. dS is rounded to the input's dtype before the second product; with a mean over
    1e5 rows it would be under the smallest float16, so there the weights carry another 2^24 (``WEIGHT_LIFT``).
    """
    largest = torch.cat([row_grad.reshape(-1), column_grad.reshape(-1), row_grad.new_zeros(1)]).abs().amax()
    target = HALF_LOG2_RANGE if query.dtype == torch.float16 else -HALF_LOG2_RANGE
    exponent = torch.where((largest > 0) & torch.isfinite(largest), target - torch.ceil(torch.log2(largest)), 0.0)
    return torch.exp2(exponent.clamp(-100.0, 100.0))


def weighted_sum(
    query_flow: Tensor, key_flow: Tensor, values: Tensor, inv_bandwidth: Tensor, query_offsets: Tensor,
    key_offsets: Tensor, query_mask: Tensor | None, key_mask: Tensor | None, max_query: int, max_key: int,
    flow_kernel: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """sums [Tq, C] = sum_j w_ij values_jc and weight_sum [Tq], per frame, in the dtype of the flows.

    Raises:
        ValueError: F over 8, or 2^31 rows or more.
    """
    check_sizes(query_flow, key_flow, query_flow)
    frames, channels = query_offsets.numel() - 1, values.shape[1]
    sums = torch.empty((query_flow.shape[0], channels), dtype=query_flow.dtype, device=query_flow.device)
    weights = torch.empty((query_flow.shape[0],), dtype=query_flow.dtype, device=query_flow.device)
    if frames == 0 or max_query == 0:
        return sums, weights
    block_c = min(64, padded(max(channels, 1)))
    constants = dict(F=query_flow.shape[1], FLOW_KERNEL=flow_kernel, PRECISION=input_precision(query_flow))

    def run(tile: Tile) -> tuple[Any, None]:
        query_tiles = triton.cdiv(max_query, tile.block_m)
        kernel = weighted_sum_kernel[(frames * query_tiles, max(1, triton.cdiv(channels, block_c)))](
            query_flow, key_flow, values, inv_bandwidth, query_offsets, key_offsets, query_mask, key_mask,
            sums, weights, query_tiles, channels,
            BLOCK_C=block_c, **meta(tile), **constants,
        )  # fmt: skip
        return kernel, None

    with on_device(values):
        run(pick("weighted_sum", query_flow, dict(constants, BLOCK_D=block_c), query_flow.shape[0] * max_key, run))
    return sums, weights


def check_sizes(rows: Tensor, columns: Tensor, flow: Tensor) -> None:
    """What the kernels take beyond the checks of the public functions."""
    if rows.shape[1] > MAX_DIMENSIONS:
        raise ValueError(f"query: the triton backend takes D from 1 to {MAX_DIMENSIONS}, got {rows.shape[1]}")
    if not 1 <= flow.shape[1] <= MAX_FLOW:
        raise ValueError(f"query_flow: F must be 1 to {MAX_FLOW}, got {flow.shape[1]}")
    for name, tensor in (("query", rows), ("key", columns)):
        if tensor.shape[0] >= 2**31 - 2**16:
            raise ValueError(f"{name}: the triton backend takes under 2^31 rows, got {tensor.shape[0]}")


def meta(tile: Tile) -> dict[str, int]:
    """A tile as the keyword arguments of a launch."""
    limit = dict(maxnreg=tile.registers) if tile.registers else {}
    return dict(
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, SPECIAL=tile.special, num_warps=tile.warps, num_stages=tile.stages,
        **limit,
    )  # fmt: skip


def lanes(tile: Tile, capability: int, operands: bool) -> int:
    """Columns of the sums that a row keeps until its last tile, 0 to add a row up in every tile.

    The threads of wgmma's layout have 8 columns of a row between them, the next 8 are theirs again; where several warps
    share a row, keeping its sums apart would move every pair through shared memory. Weights that are no product have no
    layout of their own and would be formed in another one: 37 instructions per pair instead of 24 ("dissimilar", D = 64).
    """
    return 8 if operands and tiles.generation(capability) in (0, 90) and tile.block_m >= 16 * tile.warps else 0


def exponents_by_product(
    products: str, capability: int, flow_kernel: str, flow_dim: int, bounded: bool, dissimilar: bool
) -> bool:
    """Whether tensor cores form the exponents of the weights.

    Embeddings of 16 bits only: the weights of float32 inputs are held to float32. Not for "dissimilar" negatives: 1 - w of
    equal flows must be exactly 0. Not with mma.sync, which lays the two products of a narrow tile out in different ways, so
    that each weight would be formed several times.
    """
    layouts_agree = products == "half" and tiles.generation(capability) != 80
    return layouts_agree and flow_kernel == "gaussian" and flow_dim <= 2 and bounded and not dissimilar


def padded(size: int) -> int:
    """Power of two of at least 16 (the smallest side of a product) that holds ``size``."""
    return max(16, int(triton.next_power_of_2(size)))


def input_precision(tensor: Tensor) -> str:
    """ieee or tf32 products for float32, by torch.set_float32_matmul_precision; others have one precision."""
    if tensor.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return "ieee" if tensor.dtype in (torch.float32, torch.float64) else "tf32"


def product_class(tensor: Tensor) -> str:
    """half, tf32 or ieee: the products of embeddings of this dtype, as ``tiles`` names them."""
    return "half" if tensor.dtype in (torch.float16, torch.bfloat16) else input_precision(tensor)


def pick(
    kind: str, tensor: Tensor, constants: dict[str, Any], pairs: int, run: Callable[[Tile], tuple[Any, Any]]
) -> Tile:  # fmt: skip
    """The tile of a launch; ``run`` launches with a tile and gives (compiled kernel, result)."""
    varied = {name: value for name, value in constants.items() if name not in ("BLOCK_D", "PRECISION")}
    options = ",".join(f"{name}={value}" for name, value in sorted(varied.items()))

    def seconds(tile: Tile) -> float:
        if math.isinf(misfit(tile)):
            return math.inf
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        best = float("inf")
        for _ in range(3):
            start.record()
            run(tile)
            end.record()
            end.synchronize()
            best = min(best, start.elapsed_time(end) * 1e-3)
        return best

    def misfit(tile: Tile) -> float:
        try:
            return float(run(tile)[0].n_spills)
        except OutOfResources:
            return math.inf

    return tiles.choose(
        kind, options, product_class(tensor), int(constants["BLOCK_D"]), tiles.is_heavy(constants), tensor.device, pairs,
        seconds, misfit,
    )  # fmt: skip


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 2 in the interpreter, so that splits are exercised there as well."""
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Make the tensor's device current: Triton launches on the current device and stream."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
