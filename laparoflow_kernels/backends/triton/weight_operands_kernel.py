"""Operands by which tensor cores give the exponents of gaussian weights: one product over 16 columns, in float16.

With u = (f - o) sqrt(log2 e) / bandwidth for the flow f of a row, v likewise for a column, o an origin of the frame:

    log2 w_xy = -|f_x - g_y|^2 log2(e) / (2 bandwidth^2) = u_x . v_y - |u_x|^2 / 2 - |v_y|^2 / 2

Any origin gives the same weights; near the flows it keeps u small. Each component is the sum of two float16 (22 bits), each
half norm of three (33 bits). That leaves an error of about 2^-22 |u| |u - v| in the exponent, and the float32 sum over the
columns one of a few 2^-24 |u|^2: 1e-6 for weights near the origin, a few 1e-5 at REACH, less than any rounding of a 16-bit
gradient. A row holds, h and l being the two parts of a component and n1 + n2 + n3 the half norm,

    columns  0  1  2  3  4  5  6  7  8  9 10   11  12  13 14 15
             xh xl xh xl yh yl yh yl 1  1  1  -n1 -n2 -n3 0  0

and the other side of a product takes the same row with its columns in another order (``load_own_operand``): xh xh xl xl ...,
the norms against the ones. A masked row has n1 = MASKED and no components: its weights are 2^-60000 = 0.

``near`` says whether all rows of a tile are within REACH: products of other tiles are never formed, the kernels take the
difference of the flows there. A chunk of CHUNK rows of a frame has 32 flags: one for the chunk, two for its halves, and so
on to 16 rows, so that a tile of any size reads one.

The origin is the median (by component) of up to SAMPLES valid flows of the frame's queries. Grid: frame x chunk.
Memory: 32.125 bytes per row of either side.
"""

import triton
import triton.language as tl

from .pairs import (
    LOG2_E,
    distance_to,
    exact_product,
    load_flow,
    pair_weight,
    product,
    squared_distance,
    weight_of,
)

CHUNK = tl.constexpr(256)
FLAGS = tl.constexpr(32)
SAMPLES = tl.constexpr(128)
COLUMNS = tl.constexpr(16)
MASKED = tl.constexpr(-60000.0)
REACH = tl.constexpr(16.0)  # of |u| / sqrt(2)


@triton.jit
def median(x, kept):
    """The middle one of the kept numbers, 0 where there is none; by rank, all against all."""
    index = tl.arange(0, SAMPLES)
    x = tl.where(kept, x, float("inf"))
    before = (x[None, :] < x[:, None]) | ((x[None, :] == x[:, None]) & (index[None, :] < index[:, None]))
    rank = tl.sum(before.to(tl.int32), 1)
    middle = tl.sum(kept.to(tl.int32), 0) // 2
    return tl.sum(tl.where(kept & (rank == middle), x, 0.0), 0)


@triton.jit
def origin_of(flow, mask, start, end, component: tl.constexpr, F: tl.constexpr):
    """Median of one flow component over samples of the rows start..end."""
    rows = start + (tl.arange(0, SAMPLES).to(tl.int64) * (end - start)) // SAMPLES
    inside = rows < end
    x = tl.load(flow + rows * F + component, mask=inside, other=0.0)
    kept = inside & (tl.abs(x) < float("inf"))
    if mask is not None:
        kept = kept & (tl.load(mask + rows, mask=inside, other=0) != 0)
    return median(x, kept)


@triton.jit
def in_parts(x):
    """A float32 as the sum of two float16, up to 2^-22 of it."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def store_flags(flags, reached, COUNT: tl.constexpr):
    """Flags of a chunk cut into COUNT tiles; those of fewer and larger tiles lie before them."""
    whole = tl.min(tl.reshape(reached.to(tl.int32), [COUNT, CHUNK // COUNT]), 1)
    tl.store(flags + (COUNT - 1) + tl.arange(0, COUNT), whole)


@triton.jit(do_not_specialize=["chunks"])
def weight_operands_kernel(
    query_flow, query_offsets, query_mask, flow, offsets, mask, inverse_bandwidth, operands, near, chunks: tl.int32,
    F: tl.constexpr,
):  # fmt: skip
    """operands [T, 16] and near [frames, chunks, 32] of one chunk of rows; the origin comes from the queries."""
    frame = tl.program_id(0) // chunks
    chunk = tl.program_id(0) % chunks
    start = tl.load(offsets + frame)
    end = tl.load(offsets + frame + 1)
    index = tl.arange(0, CHUNK)
    rows = start + chunk * CHUNK + index
    valid = rows < end
    kept = valid
    if mask is not None:
        kept = kept & (tl.load(mask + rows, mask=valid, other=0) != 0)
    query_start = tl.load(query_offsets + frame)
    query_end = tl.load(query_offsets + frame + 1)
    scale = tl.load(inverse_bandwidth + frame) * 1.2011224087864498  # sqrt(log2 e)
    x = (
        tl.load(flow + rows * F, mask=kept, other=0.0) - origin_of(query_flow, query_mask, query_start, query_end, 0, F)
    ) * scale
    y = tl.zeros_like(x)
    if F == 2:
        y = (
            tl.load(flow + rows * F + 1, mask=kept, other=0.0)
            - origin_of(query_flow, query_mask, query_start, query_end, 1, F)
        ) * scale
    reached = (x * x + y * y <= 2.0 * REACH * REACH) | (kept == 0)  # a NaN is far away
    kept = kept & reached
    x_high, x_low = in_parts(tl.where(kept, x, 0.0))
    y_high, y_low = in_parts(tl.where(kept, y, 0.0))
    # the norm of what the parts hold, to more than float32
    x = x_high.to(tl.float32) + x_low.to(tl.float32)
    y = y_high.to(tl.float32) + y_low.to(tl.float32)
    x_square, x_rest = exact_product(x, x)
    y_square, y_rest = exact_product(y, y)
    total = x_square + y_square
    back = total - x_square
    rest = (x_square - (total - back)) + (y_square - back) + (x_rest + y_rest)
    first = tl.where(kept, -0.5 * total, MASKED).to(tl.float16)
    remainder = tl.where(kept, (-0.5 * total - first.to(tl.float32)) - 0.5 * rest, 0.0)
    second, third = in_parts(remainder)
    column = tl.arange(0, COLUMNS)[None, :]
    low = column % 2 == 1
    components = tl.where(
        column < 4, tl.where(low, x_low[:, None], x_high[:, None]), tl.where(low, y_low[:, None], y_high[:, None])
    )
    norms = tl.where(column == 11, first[:, None], tl.where(column == 12, second[:, None], third[:, None]))
    one = tl.full([CHUNK, COLUMNS], 1.0, tl.float16)
    value = tl.where(column < 8, components, tl.where(column < 11, one, tl.where(column < 14, norms, one - one)))
    tl.store(operands + rows[:, None] * COLUMNS + column, value, mask=valid[:, None])
    flags = near + tl.program_id(0).to(tl.int64) * FLAGS
    store_flags(flags, reached, 1)
    store_flags(flags, reached, 2)
    store_flags(flags, reached, 4)
    store_flags(flags, reached, 8)
    store_flags(flags, reached, 16)


@triton.jit
def load_near(near, frame, chunks, row, BLOCK: tl.constexpr):
    """Whether the tile at ``row`` of the frame (a multiple of BLOCK) holds near rows alone."""
    LEVEL: tl.constexpr = 256 // BLOCK
    return tl.load(near + (frame * chunks + row // 256) * 32 + (LEVEL - 1) + (row % 256) // BLOCK)


@triton.jit
def load_own_operand(operands, start, valid, BLOCK: tl.constexpr):
    """[BLOCK, 16] operand of rows held by a program, in the order that meets the other side's; masked where not valid."""
    column = tl.arange(0, 16)
    crossed = (column & 4) | ((column & 1) << 1) | ((column >> 1) & 1)
    moved = tl.where(column < 8, crossed, tl.where(column < 11, column + 3, tl.where(column < 14, column - 3, column)))
    pointers = operands + start.to(tl.int64) * 16 + tl.arange(0, BLOCK)[:, None] * 16 + moved[None, :]
    absent = tl.where(column == 8, -60000.0, tl.where((column >= 11) & (column < 14), 1.0, 0.0)).to(tl.float16)
    return tl.where(valid[:, None], tl.load(pointers, mask=valid[:, None], other=0.0), absent[None, :])


@triton.jit
def load_streamed_operand(operands, start, valid, BLOCK: tl.constexpr, RAGGED: tl.constexpr):
    """[BLOCK, 16] operand of streamed rows; masked where not valid, which a whole tile need not ask."""
    column = tl.arange(0, 16)
    pointers = operands + start.to(tl.int64) * 16 + tl.arange(0, BLOCK)[:, None] * 16 + column[None, :]
    if RAGGED:
        absent = tl.where(column == 11, -60000.0, tl.where((column >= 8) & (column < 11), 1.0, 0.0)).to(tl.float16)
        result = tl.where(valid[:, None], tl.load(pointers, mask=valid[:, None], other=0.0), absent[None, :])
    else:
        result = tl.load(pointers)
    return result


@triton.jit
def exact_exponent(
    own_flow_at, own_valid, flow_at, valid, inverse_bandwidth, F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """log2 w of a tile by the difference of the flows at two pointers, at least -60000."""
    own_flow = load_flow(own_flow_at, tl.arange(0, BLOCK_M), own_valid, float("-inf"), F)
    flow = load_flow(flow_at, tl.arange(0, BLOCK_N), valid, float("inf"), F)
    factor = inverse_bandwidth * inverse_bandwidth * (-0.5 * LOG2_E)
    return tl.maximum(squared_distance(own_flow, flow, F) * factor, -60000.0)


@triton.jit
def tile_weight(
    own_flow, own_flow_at, own_valid, own_operand, near, flow, operands, start, valid, inverse_bandwidth,
    F: tl.constexpr, BLOCK: tl.constexpr, FLOW_KERNEL: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Weight w of the pairs of a tile, and (x, c) with log2 w = x c where w > 0, as ``pair_weight``.

    With operands (or None) and ``near`` the exponent is a product; ragged tiles, and far ones, take the difference of flows.
    """
    BLOCK_M: tl.constexpr = own_operand.shape[0] if own_operand is not None else 0
    if own_operand is None:
        squared = distance_to(own_flow, flow + start.to(tl.int64) * F, valid, F, BLOCK)
        return pair_weight(squared, inverse_bandwidth, FLOW_KERNEL)
    else:
        flow_at = flow + start.to(tl.int64) * F
        operand = load_streamed_operand(operands, start, valid, BLOCK, RAGGED)
        if near != 0:
            exponent = product(own_operand, tl.trans(operand), tl.zeros([BLOCK_M, BLOCK], dtype=tl.float32), "tf32")
        else:
            exponent = exact_exponent(own_flow_at, own_valid, flow_at, valid, inverse_bandwidth, F, BLOCK_M, BLOCK)
        return weight_of(exponent), exponent, 1.0
