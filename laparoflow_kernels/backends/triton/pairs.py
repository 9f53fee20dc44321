"""The mathematics of one tile of pixel pairs, shared by every Triton kernel.

For rows x and columns y of a tile, with flows f_x and g_y (F components, pixels of the source frame):

    r2_xy = sum_c (f_xc - g_yc)^2                   the difference first: flows may be 1e4
    w_xy  = phi(r2_xy / bandwidth^2)                pair weight, exactly 0 below 2^-126
    gaussian exp(-r^2/2) | laplace exp(-r) | cauchy 1/(1+r^2) | tophat [r <= 1]

A masked or padded row carries the flow -inf and such a column +inf, so that their distance is infinite and
every flow kernel gives 0 without a further select; the finite flows of a pair are never touched by this.

Exponentials have base 2 throughout and are those of the special function unit.
"""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2_REST = tl.constexpr(-1.904654e-9)  # ln 2 less its float32
LOG2_E_REST = tl.constexpr(1.925963e-8)  # log2(e) less its float32
LN_2 = tl.constexpr(0.6931471805599453)
LN_2_HIGH = tl.constexpr(0.693145751953125)
CHUNK = tl.constexpr(64)  # channels of a step of ``logits`` where rows are too wide to be held
LN_2_LOW = tl.constexpr(1.4286068203094172e-06)


@triton.jit
def weight_of(exponent):
    """2^exponent of an exponent under 1; results below 2^-126 are exactly 0."""
    result = tl.exp2(exponent)
    if INTERPRETED:
        result = tl.where(exponent >= -126.0, result, 0.0)
    return result


@triton.jit
def reciprocal(x):
    """1 / x for x >= 1; results below 2^-126 are exactly 0."""
    if INTERPRETED or x.dtype == tl.float64:
        result = tl.where(x <= 8.507059173023462e37, 1.0 / x, 0.0)
    else:
        result = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )  # fmt: skip
    return result


@triton.jit
def fused(a, b, c):
    """a b + c rounded once; operands are broadcast to the shape of a."""
    b, c = tl.broadcast_to(b, a.shape), tl.broadcast_to(c, a.shape)
    if INTERPRETED:
        result = (a.to(tl.float64) * b.to(tl.float64) + c.to(tl.float64)).to(a.dtype)
    else:
        result = tl.fma(a, b, c)
    return result


@triton.jit
def power_of_two(n):
    """2^n, exactly, of a float that is an integer from -126 to 127."""
    if n.dtype == tl.float32:
        result = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    else:
        result = tl.exp2(n)
    return result


@triton.jit
def upper_half(x):
    """x with the lower half of its significand cut off: products of such numbers are exact in float32."""
    if x.dtype == tl.float32:
        x = (x.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
    return x


@triton.jit
def exact_product(x, y):
    """(x y rounded, what the rounding dropped)."""
    rounded = x * y
    x_high, y_high = upper_half(x), upper_half(y)
    x_low, y_low = x - x_high, y - y_high
    return rounded, ((x_high * y_high - rounded) + (x_high * y_low + x_low * y_high)) + x_low * y_low


@triton.jit
def scale_error(t):
    """e of the rounded factor log2(e) / t (1 + e) by which the pairs scale their products.

    Statistics and coefficients take 1 / t with this same error, so that the probabilities of a row still add up to 1: the
    loss is then that of a temperature off by one rounding, and nothing that cancels is left over.
    """
    scale = LOG2_E / t
    back, lost = exact_product(scale, t)
    error = (back - LOG2_E) + lost
    if t.dtype == tl.float32:
        error -= LOG2_E_REST
    return error / LOG2_E


@triton.jit
def load_or(pointers, valid, other):
    """What is at ``pointers``, ``other`` where not valid (None: all are valid)."""
    return tl.load(pointers) if valid is None else tl.load(pointers, mask=valid, other=other)


@triton.jit
def load_flow(flow, rows, valid, sentinel, F: tl.constexpr):
    """Components of the flow of ``rows`` (pointer to the frame's first row) as a tuple of F vectors."""
    components = (load_or(flow + rows * F, valid, sentinel),)
    for c in tl.static_range(1, F):
        components = components + (load_or(flow + rows * F + c, valid, 0.0),)
    return components


@triton.jit
def squared_distance(row_flow, column_flow, F: tl.constexpr):
    """[rows, columns] squared flow distance in pixels^2; infinite where a side is masked."""
    difference = row_flow[0][:, None] - column_flow[0][None, :]
    total = difference * difference
    for c in tl.static_range(1, F):
        component = row_flow[c][:, None] - column_flow[c][None, :]
        total += component * component
    return total


@triton.jit
def distance_to(row_flow, column_flow_at, valid, F: tl.constexpr, BLOCK: tl.constexpr):
    """``squared_distance`` to the columns at a pointer, whose components are loaded one at a time: fewer registers."""
    columns = column_flow_at + tl.arange(0, BLOCK) * F
    difference = row_flow[0][:, None] - load_or(columns, valid, float("inf"))[None, :]
    total = difference * difference
    for c in tl.static_range(1, F):
        component = row_flow[c][:, None] - load_or(columns + c, valid, 0.0)[None, :]
        total += component * component
    return total


@triton.jit
def pair_weight(squared, inverse_bandwidth, FLOW_KERNEL: tl.constexpr):
    """Weight w, and (x, c) with log2 w = x c where w > 0; x is finite everywhere, c is a scalar.

    The clamp is at an exponent of -127, written out: Triton 3.8's interpreter keeps constant / tensor wrapped as a constant.
    """
    if FLOW_KERNEL == "gaussian":
        factor = inverse_bandwidth * inverse_bandwidth * (-0.5 * LOG2_E)
        distance = tl.minimum(squared, -127.0 / factor)
        weight = weight_of(distance * factor)
    elif FLOW_KERNEL == "laplace":
        factor = inverse_bandwidth * (-LOG2_E)
        distance = tl.minimum(tl.sqrt(squared), -127.0 / factor)
        weight = weight_of(distance * factor)
    elif FLOW_KERNEL == "cauchy":
        factor = inverse_bandwidth * 0.0 - 1.0
        scaled = squared * (inverse_bandwidth * inverse_bandwidth)
        scaled = tl.minimum(1.0 + scaled, 1.7014118346046923e38)
        weight = reciprocal(scaled)
        distance = tl.log2(scaled)
    else:
        factor = inverse_bandwidth * 0.0
        scaled = squared * (inverse_bandwidth * inverse_bandwidth)
        # r = 1 itself counts, however r2 is rounded; constants are float32, too coarse for 1 and four roundings of float64
        rounding = 2.0**-21 if squared.dtype == tl.float32 else 2.0**-50
        weight = tl.where(scaled - 1.0 <= rounding, 1.0, 0.0).to(squared.dtype)
        distance = tl.zeros_like(squared)
    return weight, distance, factor


@triton.jit
def load_rows(matrix, start, valid, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, channel=0):
    """[BLOCK, BLOCK_D] of a contiguous [*, D] matrix from row ``start`` and channel ``channel`` on, in 64-bit addressing.

    Rows that are not valid (None: all are) and channels past D are 0.
    """
    base = matrix + start.to(tl.int64) * D
    d = channel + tl.arange(0, BLOCK_D)
    offsets = tl.arange(0, BLOCK)[:, None] * D + d[None, :]
    if valid is not None:
        mask = valid[:, None]
        if D // BLOCK_D * BLOCK_D != D:
            mask = mask & (d < D)[None, :]
        result = tl.load(base + offsets, mask=mask, other=0.0)
    elif D // BLOCK_D * BLOCK_D != D:
        result = tl.load(base + offsets, mask=(d < D)[None, :], other=0.0)
    else:
        result = tl.load(base + offsets)
    return result


@triton.jit
def valid_rows(mask, start, end, BLOCK: tl.constexpr, RAGGED: tl.constexpr):
    """Rows start..start+BLOCK that lie before ``end`` and are kept by ``mask`` (or None).

    RAGGED: the tile may reach past ``end``. None where every row is valid: no mask, and not RAGGED.
    """
    rows = start + tl.arange(0, BLOCK)
    valid = None
    if RAGGED:
        valid = rows < end
    if mask is not None:
        if RAGGED:
            valid = valid & (tl.load(mask + rows, mask=valid, other=0) != 0)
        else:
            valid = tl.load(mask + rows) != 0
    return valid


@triton.jit
def load_own_group(groups, start, valid, BLOCK: tl.constexpr):
    """Groups [BLOCK] of rows held by a program, or None where pixels have none."""
    result = None
    if groups is not None:
        result = tl.load(groups + start.to(tl.int64) + tl.arange(0, BLOCK), mask=valid, other=0)
    return result


@triton.jit
def same_group(own_group, groups, start, valid, BLOCK: tl.constexpr):
    """[rows, BLOCK] whether a pair is of one group: such a pair counts nowhere."""
    return own_group[:, None] == load_or(groups + start.to(tl.int64) + tl.arange(0, BLOCK), valid, 0)[None, :]


@triton.jit
def product(a, b, accumulator, PRECISION: tl.constexpr):
    """a b + accumulator on the tensor cores (on the FMA units for ieee float32), accumulated in float32."""
    if INTERPRETED and a.dtype == tl.bfloat16:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc=accumulator, input_precision=PRECISION, out_dtype=accumulator.dtype)


@triton.jit
def own_rows(matrix, start, valid, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """What ``logits`` takes of the rows of a program: a tile of them or, with D over BLOCK_D, where they lie."""
    if D <= BLOCK_D:
        return load_rows(matrix, start, valid, D, BLOCK, BLOCK_D)
    else:
        return matrix, start, valid


@triton.jit
def logits(own, other, start, valid, zero, D: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr):
    """(q.k of a tile of pairs, added to ``zero`` [BLOCK_M, BLOCK_N]; the streamed rows, where D is at most BLOCK_D).

    Beyond, no rows are kept: those of both sides are loaded CHUNK channels at a time.
    """
    if D <= BLOCK_D:
        y = load_rows(other, start, valid, D, zero.shape[1], BLOCK_D)
        return product(own, tl.trans(y), zero, PRECISION), y
    else:
        s = zero
        for channel in tl.range(0, D, CHUNK):
            x = load_rows(own[0], own[1], own[2], D, zero.shape[0], CHUNK, channel)
            y = load_rows(other, start, valid, D, zero.shape[1], CHUNK, channel)
            s = product(x, tl.trans(y), s, PRECISION)
        return s, s


@triton.jit
def rounded_to(x, DTYPE: tl.constexpr):
    """x in DTYPE, to the nearest even; the interpreter alone would cut bfloat16 off, wrongly below 2^-126."""
    if INTERPRETED and tl.bfloat16 == DTYPE:
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def other_frame_tile(tile, start, end, total, BLOCK: tl.constexpr):
    """First and one-past-last row of the tile-th tile of the rows outside [start, end) of ``total`` rows."""
    before = tl.cdiv(start, BLOCK)
    first = tl.where(tile < before, tile * BLOCK, end + (tile - before) * BLOCK)
    last = tl.where(tile < before, start, total)
    return first, last
