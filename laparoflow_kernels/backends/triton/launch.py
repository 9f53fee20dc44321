"""Host code of the Triton operators: shapes to grids, options to compile-time constants, buffers, launches.

All tensors are packed over the batch: query [Tq, D], key [Tk, D], flows [Tq, F], [Tk, F]; frame b owns the rows
offsets[b]:offsets[b + 1]. Launches go to the current stream of the tensors' device; nothing waits for the device. What a
launch is about stands in two groups: ``Side`` (the queries or the keys) and the operator's own arguments.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from laparoflow_kernels.arguments import Needs, PairArguments, StatsArguments, SumArguments
from laparoflow_kernels.checks import check_flow_channels

from . import tiles
from .availability import MAX_DIMENSIONS
from .coefficients_kernel import coefficients_kernel
from .finish_kernel import finish_kernel
from .gradient_kernels import backward_kernel
from .statistics_kernels import forward_kernel
from .tiles import Tile
from .weight_operands_kernel import weight_operands_kernel
from .weighted_sum_kernel import weighted_sum_kernel

WIDEST_BLOCK = 256  # channels of a row that a program holds; wider rows are read again for each tile of pairs
MAX_SPLITS = 16
INSIDE_LIFT = 48.0
ROW_BLOCK = 256
HALF_LOG2_RANGE = 12
WEIGHT_LIFT = 2.0**24  # of float16: what the weights are multiplied with before they meet b / W, which is divided by it
OPERAND_CHUNK = 256  # rows of a chunk of weight_operands_kernel


class Side(NamedTuple):
    """The queries or the keys of all frames, and what the kernels need of them."""

    rows: Tensor  # [T, D]
    flow: Tensor  # [T, F]
    offsets: Tensor  # [B + 1]
    mask: Tensor | None  # [T]
    group: Tensor | None  # [T]: a pair of equal groups counts nowhere
    largest: int  # rows of the largest frame
    operands: Tensor | None = None  # [T, 16], where tensor cores form the exponents of the weights
    near: Tensor | None = None  # [B, chunks, 32], with the operands
    chunks: int = 0
    coefficients: Tensor | None = None  # [7, T] of a backward: those of the queries where the loss is not symmetric

    @property
    def frames(self) -> int:
        """B."""
        return self.offsets.numel() - 1


def sides_of(p: PairArguments) -> tuple[Side, Side]:
    """Queries and keys, with their weight operands where these exponents are a product.

    Raises:
        ValueError: D over MAX_DIMENSIONS, F over 8, 2^31 rows or more, or groups of one side alone.
    """
    if (p.query_group is None) != (p.key_group is None):
        raise ValueError("key_group: expected where query_group is, and not else")
    check_sizes(p.query, p.key, p.query_flow)
    query = Side(p.query, p.query_flow, p.query_offsets, p.query_mask, p.query_group, p.max_query)
    key = Side(p.key, p.key_flow, p.key_offsets, p.key_mask, p.key_group, p.max_key)
    options = p.flow_kernel, p.query_flow.shape[1], p.bounded, p.negatives == "dissimilar"
    if query.frames == 0 or not exponents_by_product(product_class(p.query), tiles.capability_of(p.query.device), *options):
        return query, key
    return with_operands(query, query, p.inv_bandwidth), with_operands(key, query, p.inv_bandwidth)


def with_operands(side: Side, query: Side, inv_bandwidth: Tensor) -> Side:
    """A side with the operands of its weights, relative to the flows of the queries."""
    chunks = triton.cdiv(side.largest, OPERAND_CHUNK)
    operands = torch.empty((side.flow.shape[0], 16), dtype=torch.float16, device=side.flow.device)
    near = torch.empty((side.frames, chunks, 32), dtype=torch.int32, device=side.flow.device)
    if chunks:
        with on_device(side.flow):
            weight_operands_kernel[(side.frames * chunks,)](
                query.flow, query.offsets, query.mask, side.flow, side.offsets, side.mask, inv_bandwidth, operands, near,
                chunks, F=side.flow.shape[1],
            )  # fmt: skip
    return side._replace(operands=operands, near=near, chunks=chunks)


def pair_arguments(p: PairArguments, own: Side, other: Side) -> tuple[Tensor | None, ...]:
    """The arguments with which both pair kernels begin."""
    return (
        own.rows, other.rows, own.flow, other.flow, p.temperature, p.inv_bandwidth, own.offsets, other.offsets,
        own.mask, other.mask, own.group, other.group, own.operands, other.operands, own.near, other.near,
    )  # fmt: skip


def left_out(own: Side, other: Side) -> dict[str, bool]:
    """Which pixels and pairs a launch leaves out: no constants of the kernels, which see it by absent tensors."""
    return dict(MASKED=own.mask is not None or other.mask is not None, GROUPED=own.group is not None)


def constants_of(p: PairArguments) -> dict[str, Any]:
    """Compile-time constants of the pair kernels."""
    width = p.query.shape[1]
    return dict(
        D=width, F=p.query_flow.shape[1], BLOCK_D=padded(min(width, WIDEST_BLOCK)), FLOW_KERNEL=p.flow_kernel,
        INSIDE=p.positives == "inside", DISSIMILAR=p.negatives == "dissimilar", BATCH=p.scope == "batch", BOUNDED=p.bounded,
        PRECISION=input_precision(p.query),
    )  # fmt: skip


def flow_infonce_forward(p: PairArguments) -> tuple[Tensor, Tensor]:
    """Row statistics [4, Tq] and, with symmetric, column statistics [4, Tk] (else [4, 0]).

    Rows are lse, weight_sum, positive, weight_log_sum, in float32 (float64 for float64 inputs, interpreter only).
    """
    query, key = sides_of(p)
    rows = one_direction(p, query, key)
    return rows, one_direction(p, key, query) if p.symmetric else rows.new_empty((4, 0))


def one_direction(p: PairArguments, own: Side, other: Side) -> Tensor:
    """Statistics [4, T] of one side against the other."""
    inside, batch = p.positives == "inside", p.scope == "batch"
    constants = constants_of(p) | dict(
        LIFT=INSIDE_LIFT if p.bounded and inside else 0.0, QUANTITIES=4 if p.bounded else 6 if inside else 5,
        WEIGHT_STATS=p.weight_stats,
    )  # fmt: skip
    total, reach = own.rows.shape[0], other.rows.shape[0] if batch else other.largest
    capability = tiles.capability_of(own.rows.device)

    def run(tile: Tile) -> tuple[Any, Tensor]:
        row_tiles = triton.cdiv(own.largest, tile.block_m)
        splits = splits_of_keys(tile, own.frames * row_tiles, reach, own.rows.device)
        partial = own.flow.new_empty((splits, constants["QUANTITIES"], total))
        kernel = forward_kernel[(own.frames * row_tiles, splits)](
            *pair_arguments(p, own, other), partial, total, other.rows.shape[0], row_tiles, splits, own.chunks, other.chunks,
            STAGES=tile.stages, LANES=tiles.lanes(tile, capability, own.operands is not None), **meta(tile), **constants,
        )  # fmt: skip
        return kernel, partial

    with on_device(own.rows):
        if own.frames == 0 or own.largest == 0:
            return own.flow.new_empty((4, 0))
        _, partial = run(pick("forward", own.rows, left_out(own, other) | constants, run))
        return finish(partial, own.mask, p.temperature, constants)


def finish(partial: Tensor, mask: Tensor | None, temperature: Tensor, constants: dict[str, Any]) -> Tensor:
    """Statistics [4, T] from partial sums [splits, quantities, T]."""
    splits, _, total = partial.shape
    stats = partial.new_empty((4, total))
    names = ("INSIDE", "BOUNDED", "LIFT", "QUANTITIES", "WEIGHT_STATS")
    finish_kernel[(triton.cdiv(total, ROW_BLOCK),)](
        partial, mask, temperature, stats, total, splits, BLOCK=ROW_BLOCK, **{name: constants[name] for name in names}
    )
    return stats


def splits_of_keys(tile: Tile, programs: int, reach: int, device: torch.device) -> int:
    """In how many parts the (at most ``reach``) keys of a row are cut, so that ``programs`` fill the device twice over."""
    splits = triton.cdiv(2 * processors(device), programs)
    return max(1, min(splits, MAX_SPLITS, triton.cdiv(reach, tile.block_n)))


def flow_infonce_backward(p: PairArguments, stats: StatsArguments, needs: Needs) -> tuple[Tensor, Tensor, Tensor]:
    """dquery [Tq, D], dkey [Tk, D], dtemperature []; what is not needed is empty ([0]) and not computed."""
    query, key = sides_of(p)
    constants = constants_of(p)
    temperature_by_key = needs.need_temperature and not needs.need_query and needs.need_key
    with on_device(p.query):
        scale = gradient_scale(p.query, stats.row_grad, stats.column_grad)
        given = ((stats.row_stats, stats.row_grad), (stats.column_stats, stats.column_grad))[: 1 + p.symmetric]
        found = [coefficients(*pair, p.temperature, scale, constants, p.query.dtype) for pair in given]
        query, key = query._replace(coefficients=found[0]), key._replace(coefficients=found[-1])
        dquery, dkey, dtemperature = p.query.new_empty(0), p.query.new_empty(0), stats.row_stats.new_empty(0)
        by_row = dtemperature
        if needs.need_query or (needs.need_temperature and not needs.need_key):
            dquery, by_row = gradient_of_side(p, query, key, scale, needs.need_query, needs.need_temperature)
        if needs.need_key:
            dkey, by_key = gradient_of_side(p, key, query, scale, True, temperature_by_key, False)
            by_row = by_key if temperature_by_key else by_row
        if needs.need_temperature:
            dtemperature = by_row.sum() - sum(side[5].sum() for side in found) / p.temperature.square()
        return dquery, dkey, dtemperature


def gradient_of_side(
    p: PairArguments, own: Side, other: Side, scale: Tensor, gradient: bool, temperature: bool, is_query: bool = True
) -> tuple[Tensor, Tensor]:
    """The gradient of one side's rows and its parts of dtemperature by row; what is not asked for is empty."""
    own_gradient = torch.empty_like(own.rows) if gradient else own.rows.new_empty(0)
    by_row = own.flow.new_empty(own.rows.shape[0] if temperature else 0)
    if own.frames == 0 or own.largest == 0:
        return own_gradient, by_row
    options = constants_of(p) | dict(
        OWN_TERMS=is_query or p.symmetric, OTHER_TERMS=not is_query or p.symmetric, ROWS=gradient, TEMPERATURE=temperature,
    )  # fmt: skip

    def run(tile: Tile) -> tuple[Any, None]:
        own_tiles = triton.cdiv(own.largest, tile.block_m)
        channel_blocks = triton.cdiv(options["D"], options["BLOCK_D"]) if gradient else 1
        kernel = backward_kernel[(own.frames * own_tiles, channel_blocks)](
            *pair_arguments(p, own, other), own.coefficients, other.coefficients, scale, own_gradient, by_row,
            own.rows.shape[0], other.rows.shape[0], own_tiles, own.chunks, other.chunks, **meta(tile), **options,
        )  # fmt: skip
        return kernel, None

    run(pick("backward", own.rows, left_out(own, other) | options, run))
    return own_gradient, by_row


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


def flow_weighted_sum(p: SumArguments) -> tuple[Tensor, Tensor]:
    """sums [Tq, C] = sum_j w_ij values_jc and weight_sum [Tq], per frame, in the dtype of the flows.

    Raises:
        ValueError: F over 8, or 2^31 rows or more.
    """
    check_sizes(p.query_flow, p.key_flow, p.query_flow)
    frames, channels, total = p.query_offsets.numel() - 1, p.values.shape[1], p.query_flow.shape[0]
    sums, weights = p.query_flow.new_empty((total, channels)), p.query_flow.new_empty(total)
    if frames == 0 or p.max_query == 0:
        return sums, weights
    block_c = min(64, padded(max(channels, 1)))
    constants = dict(F=p.query_flow.shape[1], FLOW_KERNEL=p.flow_kernel, PRECISION=input_precision(p.query_flow))

    def run(tile: Tile) -> tuple[Any, None]:
        query_tiles = triton.cdiv(p.max_query, tile.block_m)
        kernel = weighted_sum_kernel[(frames * query_tiles, max(1, triton.cdiv(channels, block_c)))](
            p.query_flow, p.key_flow, p.values, p.inv_bandwidth, p.query_offsets, p.key_offsets, p.query_mask, p.key_mask,
            sums, weights, query_tiles, channels, BLOCK_C=block_c, **meta(tile), **constants,
        )  # fmt: skip
        return kernel, None

    with on_device(p.values):
        run(pick("weighted_sum", p.query_flow, dict(constants, BLOCK_D=block_c), run))
    return sums, weights


def check_sizes(rows: Tensor, columns: Tensor, flow: Tensor) -> None:
    """What the kernels take beyond the checks of the public functions."""
    if rows.shape[1] > MAX_DIMENSIONS:
        raise ValueError(f"query: the triton backend takes D from 1 to {MAX_DIMENSIONS}, got {rows.shape[1]}")
    check_flow_channels("query_flow", flow.shape[1])
    for name, tensor in (("query", rows), ("key", columns)):
        if tensor.shape[0] >= 2**31 - 2**16:
            raise ValueError(f"{name}: the triton backend takes under 2^31 rows, got {tensor.shape[0]}")


def meta(tile: Tile) -> dict[str, int]:
    """A tile as the keyword arguments of a launch."""
    return dict(BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, num_warps=tile.warps, num_stages=tile.stages)


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


def pick(kind: str, tensor: Tensor, constants: dict[str, Any], run: Callable[[Tile], tuple[Any, Any]]) -> Tile:
    """The tile of a launch; ``run`` launches with a tile and gives (compiled kernel, result)."""

    def misfit(tile: Tile) -> float:
        try:
            return float(run(tile)[0].n_spills)
        except OutOfResources:
            return math.inf

    products, capability = product_class(tensor), tiles.capability_of(tensor.device)
    default = tiles.default_tile(kind, products, int(constants["BLOCK_D"]), capability, tiles.is_heavy(constants))
    return tiles.choose(kind, (products, *sorted(constants.items())), default, tensor.device, misfit)


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 2 in the interpreter, so that splits are exercised there as well."""
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Make the tensor's device current: Triton launches on the current device and stream."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
