"""Gradients of the flow-weighted InfoNCE: one kernel body for dq and for dk, no N x M matrix, no atomics.

With the statistics of the forward and the upstream gradients a = dL/dlse, b = dL/dpositive of every row (and column):

    dS_ij = a_i n_ij e^(s_ij - lse_i) + b_i (outside: w_ij / W_i | inside: w_ij e^(s_ij - positive_i)) + column terms
    dq_i = sum_j dS_ij k_j / temperature      dk_j = sum_i dS_ij q_i / temperature
    dtemperature = -sum_ij dS_ij q_i.k_j / temperature^2

A row's terms of dS sum to a_i + b_i, so its part of the last sum is sum_j dS_ij (q_i.k_j - c_i) + c_i (a_i + b_i) for any
c_i. With a c_i among the logits of the row (the weighted mean of its logits, outside, or of their exponentials, inside) the
rounding of lse, an error common to the whole row, is multiplied by the spread of the logits and no longer by their size;
a_i + b_i is exactly 0 for every loss of this package.

A program owns a tile of one side ("own": queries for dq, keys for dk) and streams the other side past it, so every
output row has one writer and one order of summation. OWN_TERMS are the terms whose coefficients belong to the owned
rows (rows' terms in dq, columns' terms in dk), OTHER_TERMS those of the streamed rows; the symmetric loss has both.
All terms of dS are added in float32 before the one rounding to the input's dtype that the second product needs.

``coefficients_kernel`` prepares seven numbers per row, so that guards (lse = -inf, W = 0) are paid once per row:

    bounded     c0 = a e^-lse    c1 = [lse log2 e]   outside: c2 = b / W   inside: c2 = b e^-positive, c3 = 1
    otherwise   c0 = a           c1 = t lse          outside: c2 = b / W   inside: c2 = b,     c3 = t positive

(otherwise c1, c3 in units of q.k). The bounded c1 is an integer, for float32 inputs (RELATIVE): the exponential is then
2^(z - c1), whose argument is small for the pairs that matter, so that the rounding of a large logit does not enter, and 2^c1
goes into the coefficients exactly; with terms of both sides, c1 is that of the owned row. 16-bit inputs round dS itself far
more coarsely and take 2^z.

Where W is tiny the weights are taken relative to it, so that a tiny weight and a large exponential do not meet in two
rounded products: bounded c2 = b / W, c3 = W e^-positive; otherwise c3 = t (positive - ln W), c6 = -log2 W (0 elsewhere).
Where all weights are 1 both terms then hold the same numbers and cancel exactly.

c0 and c2 times ``gradient_scale``, a power of two that keeps float16 away from underflow and is divided out at the end;
c4 is the c_i of dtemperature and c5 = c4 (a + b), unscaled, the host's part of it.

Grid: frame x tile of the owned side. Memory: 7 floats per row and the outputs.
"""

import triton
import triton.language as tl

from .pairs import (
    LN_2,
    LN_2_HIGH,
    LN_2_LOW,
    LN_2_REST,
    LOG2_E,
    exact_product,
    exp2_bounded,
    fused,
    load_flow,
    load_or,
    load_rows,
    other_frame_tile,
    power_of_two,
    product,
    rounded_to,
    scale_error,
    valid_rows,
)
from .weight_operands_kernel import load_near, load_own_operand, tile_weight


@triton.jit
def accurate_exp(x):
    """e^x with the product x log2 e split, so that an error of one row's coefficient stays near one rounding."""
    whole = tl.floor(x * LOG2_E + 0.5)
    rest = tl.fma(whole, tl.full(x.shape, -LN_2_LOW, x.dtype), tl.fma(whole, tl.full(x.shape, -LN_2_HIGH, x.dtype), x))
    return tl.exp2(whole) * tl.exp2(rest * LOG2_E)


@triton.jit
def in_product_units(x, temperature, scale):
    """(x t rounded, the factor 2^-((x t - rounded) scale)): x as a shift of q.k, and what the rounding dropped."""
    rounded, dropped = exact_product(x, temperature)
    dropped -= rounded * scale_error(temperature)
    return rounded, tl.exp2(-dropped * scale)


@triton.jit
def coefficients_kernel(
    stats, gradient, temperature, gradient_scale, coefficients, total: tl.int32,
    BLOCK: tl.constexpr, INSIDE: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """coefficients [7, total] from stats [4, total] and gradient [2, total]."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = rows < total
    stride = total.to(tl.int64)
    scale = tl.load(gradient_scale)
    t = tl.load(temperature) + tl.zeros([BLOCK], dtype=scale.dtype)
    lse = tl.load(stats + rows, mask=valid, other=float("-inf"))
    weight_sum = tl.load(stats + stride + rows, mask=valid, other=0.0)
    positive = tl.load(stats + 2 * stride + rows, mask=valid, other=0.0)
    has_denominator = lse > float("-inf")
    has_positive = weight_sum > 0.0
    a = tl.where(has_denominator, tl.load(gradient + rows, mask=valid, other=0.0), 0.0)
    b = tl.where(has_positive, tl.load(gradient + stride + rows, mask=valid, other=0.0), 0.0)
    safe_sum = tl.where(has_positive, weight_sum, 1.0)
    centre = positive - tl.log2(safe_sum) * LN_2 if INSIDE else positive
    centre = tl.where(has_positive, centre * t, 0.0)
    tl.store(coefficients + 4 * stride + rows, centre, mask=valid)
    tl.store(coefficients + 5 * stride + rows, centre * (a + b), mask=valid)
    a *= scale
    b *= scale
    if BOUNDED:
        lse = tl.where(has_denominator, lse, 0.0)
        a = a * accurate_exp(-lse)
        # at most 2^48, so that its product with the coefficients of another row stays finite
        shift = tl.minimum(tl.maximum(tl.floor(lse * LOG2_E + 0.5), -48.0), 48.0)
    else:
        shift, correction = in_product_units(tl.where(has_denominator, lse, 0.0), t, LOG2_E / t)
        shift = tl.where(has_denominator, shift, float("inf"))
        a = a * correction
    ratio = tl.zeros_like(a)
    if not INSIDE:
        b = b / safe_sum
    elif BOUNDED:
        # W e^-positive is within e^-40 .. e^40, its factors are not: small W are lifted by 2^64 first
        small = safe_sum < 9.094947017729282e-13
        lifted = tl.where(has_positive, tl.where(small, positive + 64.0 * LN_2, positive), 0.0)
        power = accurate_exp(-lifted)
        b = tl.where(small, b / safe_sum, b * power)
        ratio = tl.where(small, safe_sum * 1.8446744073709552e19 * power, 1.0)
    else:
        whole = tl.where(safe_sum < 2.0**-24, tl.log2(safe_sum), 0.0)
        in_nats, lost_in_nats = exact_product(whole, tl.full(whole.shape, LN_2, whole.dtype))
        if whole.dtype == tl.float32:
            lost_in_nats += whole * LN_2_REST
        positive = tl.where(has_positive, positive, 0.0)
        mean = positive - in_nats
        back = mean - positive
        lost = (positive - (mean - back)) - (in_nats + back)
        ratio, correction = in_product_units(mean, t, LOG2_E / t)
        b = b * correction * tl.exp2((lost_in_nats - lost) * LOG2_E)
        ratio = tl.where(has_positive, ratio, float("inf"))
        tl.store(coefficients + 6 * stride + rows, -whole, mask=valid)
    tl.store(coefficients + rows, a, mask=valid)
    tl.store(coefficients + stride + rows, shift, mask=valid)
    tl.store(coefficients + 2 * stride + rows, b, mask=valid)
    tl.store(coefficients + 3 * stride + rows, ratio, mask=valid)


@triton.jit
def load_coefficients(
    coefficients, total, rows, valid, INSIDE: tl.constexpr, BOUNDED: tl.constexpr, TEMPERATURE: tl.constexpr,
    RELATIVE: tl.constexpr,
):  # fmt: skip
    """The coefficients c0..c4 and c6 of ``rows``; zeros (and shifts of infinity) where not valid.

    RELATIVE (bounded): the exponential is relative to c1 of these rows; c0 and c3 are then times 2^c1, which replaces c6.
    """
    stride = total.to(tl.int64)
    c0 = load_or(coefficients + rows, valid, 0.0)
    c2 = load_or(coefficients + 2 * stride + rows, valid, 0.0)
    c1 = c0
    c3 = c0
    if RELATIVE or not BOUNDED:
        c1 = load_or(coefficients + stride + rows, valid, 0.0 if BOUNDED else float("inf"))
    if INSIDE:
        c3 = load_or(coefficients + 3 * stride + rows, valid, 0.0 if BOUNDED else float("inf"))
    c4 = c0
    if TEMPERATURE:
        c4 = load_or(coefficients + 4 * stride + rows, valid, 0.0)
    c5 = c0
    if RELATIVE:
        c5 = power_of_two(c1)
        c0 = c0 * c5
        c3 = c3 * c5
    elif INSIDE and not BOUNDED:
        c5 = load_or(coefficients + 6 * stride + rows, valid, 0.0)
    return c0, c1, c2, c3, c4, c5


@triton.jit
def load_streamed_coefficients(coefficients, total, valid, BLOCK: tl.constexpr):
    """c0, c2, c3 and c4 of a tile of streamed rows, as ``load_coefficients`` gives them (bounded, not RELATIVE: no c1, c5).

    One load of at least 256 numbers, at BLOCK = 32 of each line twice: Triton 3.6 loads a vector of fewer numbers than
    there are threads in the layout of the product, once for every thread that holds a copy.
    """
    LINES: tl.constexpr = 8 if BLOCK < 64 else 4
    line = tl.arange(0, LINES) % 4
    line = tl.where(line == 0, 0, line + 1).to(tl.int64) * total
    pointers = coefficients + line[:, None] + tl.arange(0, BLOCK)[None, :]
    if valid is None:
        block = tl.load(pointers)
    else:
        block = tl.load(pointers, mask=valid[None, :], other=0.0)
    # axes of the result: row, copy, lower and upper bit of the line
    low, high = tl.split(tl.permute(tl.reshape(block, [LINES // 4, 2, 2, BLOCK]), [3, 0, 2, 1]))
    c0, c2 = tl.split(low)
    c3, c4 = tl.split(high)
    if LINES == 8:
        c0, _ = tl.split(c0)
        c2, _ = tl.split(c2)
        c3, _ = tl.split(c3)
        c4, _ = tl.split(c4)
    else:
        c0 = tl.reshape(c0, [BLOCK])
        c2 = tl.reshape(c2, [BLOCK])
        c3 = tl.reshape(c3, [BLOCK])
        c4 = tl.reshape(c4, [BLOCK])
    return c0, c0, c2, c3, c4, c0


@triton.jit
def side_terms(
    z, scale, weight, distance, factor, coefficients,
    AXIS: tl.constexpr, WEIGHTED: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr,
):  # fmt: skip
    """Unbounded form, z = q.k: the terms of dS that carry the coefficients of one side (1: own rows, 0: columns)."""
    c0 = tl.expand_dims(coefficients[0], AXIS)
    exponent = (z - tl.expand_dims(coefficients[1], AXIS)) * scale
    if WEIGHTED and DISSIMILAR:
        # n e^(s - lse) <= 1, but where n is 0 the exponential alone may overflow
        terms = tl.where(weight < 1.0, tl.exp2(exponent) * (1.0 - weight), 0.0) * c0
    else:
        terms = tl.exp2(exponent) * c0
    if WEIGHTED:
        c2 = tl.expand_dims(coefficients[2], AXIS)
        if INSIDE:
            weight_exponent = distance * factor + tl.expand_dims(coefficients[5], AXIS)
            shifted = (z - tl.expand_dims(coefficients[3], AXIS)) * scale + weight_exponent
            shifted = tl.where(weight > 0.0, shifted, float("-inf"))
            terms += tl.exp2(shifted) * c2
        else:
            terms += weight * c2
    return terms


@triton.jit
def softmax_factor(weight, side, AXIS: tl.constexpr, WEIGHTED: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr):
    """Bounded form: what multiplies the exponential, of the coefficients of one side (1: own rows, 0: columns)."""
    factor = tl.expand_dims(side[0], AXIS)
    if WEIGHTED and INSIDE:
        if DISSIMILAR:
            factor = factor * (1.0 - weight)
        factor = factor + (weight * tl.expand_dims(side[2], AXIS)) * tl.expand_dims(side[3], AXIS)
    return factor


@triton.jit
def bounded_terms(
    power, weight, own, other,
    WEIGHTED: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr,
    OWN_TERMS: tl.constexpr, OTHER_TERMS: tl.constexpr, LIFT_OTHER: tl.constexpr,
):  # fmt: skip
    """dS where |s| is bounded: one exponential serves the terms of both sides.

    LIFT_OTHER: it is relative to the own rows, which the coefficients of the other side do not contain yet.
    """
    if OTHER_TERMS:
        factor = softmax_factor(weight, other, 0, WEIGHTED, INSIDE, DISSIMILAR)
        if LIFT_OTHER:
            factor = factor * own[5][:, None]
        if OWN_TERMS:
            factor = factor + softmax_factor(weight, own, 1, WEIGHTED, INSIDE, DISSIMILAR)
    else:
        factor = softmax_factor(weight, own, 1, WEIGHTED, INSIDE, DISSIMILAR)
    terms = power * factor
    if WEIGHTED and not INSIDE:
        if DISSIMILAR:
            terms = terms * (1.0 - weight)
        if OWN_TERMS and OTHER_TERMS:
            terms += weight * (own[2][:, None] + other[2][None, :])
        elif OWN_TERMS:
            terms += weight * own[2][:, None]
        else:
            terms += weight * other[2][None, :]
    return terms


@triton.jit
def terms_of_tile(
    z, s, scale, weight, distance, factor, own, other,
    WEIGHTED: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr, BOUNDED: tl.constexpr,
    RELATIVE: tl.constexpr, OWN_TERMS: tl.constexpr, OTHER_TERMS: tl.constexpr, TEMPERATURE: tl.constexpr,
):  # fmt: skip
    """dS, and (with TEMPERATURE) dS (q.k - c) with the c of the row that each term belongs to.

    z holds the exponentials themselves where BOUNDED.
    """
    LIFT_OTHER: tl.constexpr = RELATIVE and OWN_TERMS
    power = z
    if BOUNDED and not (TEMPERATURE and OWN_TERMS and OTHER_TERMS):
        ds = bounded_terms(power, weight, own, other, WEIGHTED, INSIDE, DISSIMILAR, OWN_TERMS, OTHER_TERMS, LIFT_OTHER)
        spread = ds
        if TEMPERATURE:
            spread = ds * (s - own[4][:, None]) if OWN_TERMS else ds * (s - other[4][None, :])
    else:
        ds = tl.zeros_like(s)
        spread = ds
        if OWN_TERMS:
            if BOUNDED:
                part = bounded_terms(power, weight, own, other, WEIGHTED, INSIDE, DISSIMILAR, True, False, LIFT_OTHER)
            else:
                part = side_terms(z, scale, weight, distance, factor, own, 1, WEIGHTED, INSIDE, DISSIMILAR)
            ds = part
            if TEMPERATURE:
                spread = part * (s - own[4][:, None])
        if OTHER_TERMS:
            if BOUNDED:
                part = bounded_terms(power, weight, own, other, WEIGHTED, INSIDE, DISSIMILAR, False, True, LIFT_OTHER)
            else:
                part = side_terms(z, scale, weight, distance, factor, other, 0, WEIGHTED, INSIDE, DISSIMILAR)
            ds += part
            if TEMPERATURE:
                spread += part * (s - other[4][None, :])
    return ds, spread


@triton.jit
def backward_tile(
    own, own_flow, own_flow_at, own_operand, near, own_valid, own_coefficients, other, other_flow_base, other_operands,
    other_mask, other_coefficient_base, total_other, start, end, scale, inverse_bandwidth, gradient, temperature_sum,
    D: tl.constexpr, F: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    FLOW_KERNEL: tl.constexpr, WEIGHTED: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr,
    BOUNDED: tl.constexpr, RELATIVE: tl.constexpr, OWN_TERMS: tl.constexpr, OTHER_TERMS: tl.constexpr,
    TEMPERATURE: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr, SPECIAL: tl.constexpr,
    RAGGED: tl.constexpr,
):  # fmt: skip
    """Gradient of the owned rows after one more tile of the other side."""
    other_valid = valid_rows(other_mask, start, end, BLOCK_N, RAGGED)
    y = load_rows(other, start, other_valid, D, BLOCK_N, BLOCK_D)
    s = product(own, tl.trans(y), tl.zeros([own.shape[0], BLOCK_N], dtype=gradient.dtype), PRECISION)
    # formed before the weights: behind them, the same code takes more registers and spills
    z = s
    if own_operand is not None:
        # of the two exponentials of a pair, the special unit takes that of the weight
        z = exp2_bounded(s, scale, SPECIAL)
        if other_valid is not None:
            z = tl.where(other_valid[None, :], z, 0.0)
    elif other_valid is not None:
        # a finite bias where s - c, times a probability of 0, is summed: s itself then need not be kept beside z
        bias = tl.where(other_valid, 0.0, float("-inf") if BOUNDED else -(2.0**126))[None, :]
        z = tl.exp2(s * scale + bias) if BOUNDED and not RELATIVE else s + bias
        if not BOUNDED:
            s = z
    elif BOUNDED and not RELATIVE:
        z = tl.exp2(s * scale)
    weight = s
    distance = s
    factor = scale
    if WEIGHTED:
        weight, distance, factor = tile_weight(
            own_flow, own_flow_at, own_valid, own_operand, near, other_flow_base, other_operands, start, other_valid,
            inverse_bandwidth, F, BLOCK_N, FLOW_KERNEL, SPECIAL, RAGGED,
        )  # fmt: skip
    other_coefficients = own_coefficients
    if OTHER_TERMS and own_operand is not None and BLOCK_N >= 32:
        other_coefficients = load_streamed_coefficients(
            other_coefficient_base + start.to(tl.int64), total_other, other_valid, BLOCK_N
        )
    elif OTHER_TERMS:
        other_coefficients = load_coefficients(
            other_coefficient_base + start.to(tl.int64), total_other, tl.arange(0, BLOCK_N), other_valid, INSIDE,
            BOUNDED, TEMPERATURE, RELATIVE and not OWN_TERMS,
        )  # fmt: skip
    if RELATIVE:
        offset = -own_coefficients[1][:, None] if OWN_TERMS else -other_coefficients[1][None, :]
        z = tl.exp2(fused(s, scale, offset if other_valid is None else offset + bias))
    ds, spread = terms_of_tile(
        z, s, scale, weight, distance, factor, own_coefficients, other_coefficients,
        WEIGHTED, INSIDE, DISSIMILAR, BOUNDED, RELATIVE, OWN_TERMS, OTHER_TERMS, TEMPERATURE,
    )  # fmt: skip
    if TEMPERATURE:
        temperature_sum += tl.sum(spread, 1)
    if ROWS:
        gradient = product(rounded_to(ds, own.dtype), y, gradient, PRECISION)
    return gradient, temperature_sum


@triton.jit(do_not_specialize=["own_chunks", "other_chunks"])
def backward_kernel(
    own, other, own_flow, other_flow, temperature, inverse_bandwidth, own_offsets, other_offsets, own_mask, other_mask,
    own_operands, other_operands, own_near, other_near, own_coefficients, other_coefficients, gradient_scale,
    own_gradient, temperature_rows, total_own: tl.int32, total_other: tl.int32, own_tiles: tl.int32,
    own_chunks: tl.int32, other_chunks: tl.int32,
    D: tl.constexpr, F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    FLOW_KERNEL: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr, BATCH: tl.constexpr,
    BOUNDED: tl.constexpr, OWN_TERMS: tl.constexpr, OTHER_TERMS: tl.constexpr, ROWS: tl.constexpr,
    TEMPERATURE: tl.constexpr, PRECISION: tl.constexpr, SPECIAL: tl.constexpr,
):  # fmt: skip
    """own_gradient [total_own, D] (with ROWS) and temperature_rows [total_own] (with TEMPERATURE) of one tile."""
    tile = tl.program_id(0) % own_tiles
    frame = tl.program_id(0) // own_tiles
    own_start = tl.load(own_offsets + frame).to(tl.int32)
    own_end = tl.load(own_offsets + frame + 1).to(tl.int32)
    first = own_start + tile * BLOCK_M
    RELATIVE: tl.constexpr = BOUNDED and own.dtype.element_ty.primitive_bitwidth > 16
    if first < own_end:
        other_start = tl.load(other_offsets + frame).to(tl.int32)
        other_end = tl.load(other_offsets + frame + 1).to(tl.int32)
        inv_bandwidth = tl.load(inverse_bandwidth + frame)
        inv_temperature = 1.0 / tl.load(temperature)
        scale = LOG2_E / tl.load(temperature)
        rows = tl.arange(0, BLOCK_M)
        own_valid = valid_rows(own_mask, first, own_end, BLOCK_M, True)
        x = load_rows(own, first, own_valid, D, BLOCK_M, BLOCK_D)
        x_flow_at = own_flow + first.to(tl.int64) * F
        x_flow = load_flow(x_flow_at, rows, own_valid, float("-inf"), F)
        x_operand = None
        x_near = 1
        if own_operands is not None:
            x_operand = load_own_operand(own_operands, first, own_valid, BLOCK_M)
            x_near = load_near(own_near, frame, own_chunks, tile * BLOCK_M, BLOCK_M)
        nothing = tl.zeros([BLOCK_M], dtype=scale.dtype)
        x_coefficients = (nothing, nothing, nothing, nothing, nothing, nothing)
        if OWN_TERMS:
            x_coefficients = load_coefficients(
                own_coefficients + first.to(tl.int64), total_own, rows, own_valid, INSIDE, BOUNDED, TEMPERATURE, RELATIVE
            )
        gradient = tl.zeros([BLOCK_M, BLOCK_D], dtype=scale.dtype)
        temperature_sum = tl.zeros([BLOCK_M], dtype=scale.dtype)
        full_tiles = (other_end - other_start) // BLOCK_N
        tiles = tl.cdiv(other_end - other_start, BLOCK_N)
        other_tiles = tl.cdiv(other_start, BLOCK_N) + tl.cdiv(total_other - other_end, BLOCK_N)
        # whole tiles of the frame, its last ragged tile, tiles of other frames
        for PART in tl.static_range(3 if BATCH else 2):
            first_tile = full_tiles if PART == 1 else 0
            last_tile = full_tiles if PART == 0 else tiles if PART == 1 else other_tiles
            for t in tl.range(first_tile, last_tile, num_stages=1 if PART == 1 else None):
                start = other_start + t * BLOCK_N
                end = other_end
                if PART == 2:
                    start, end = other_frame_tile(t, other_start, other_end, total_other, BLOCK_N)
                near = x_near
                if own_operands is not None and PART < 2:
                    near = x_near & load_near(other_near, frame, other_chunks, t * BLOCK_N, BLOCK_N)
                gradient, temperature_sum = backward_tile(
                    x, x_flow, x_flow_at, x_operand, near, own_valid, x_coefficients, other, other_flow, other_operands,
                    other_mask, other_coefficients, total_other, start, end, scale, inv_bandwidth, gradient, temperature_sum,
                    D, F, BLOCK_N, BLOCK_D, FLOW_KERNEL, PART < 2, INSIDE, DISSIMILAR, BOUNDED, RELATIVE, OWN_TERMS,
                    OTHER_TERMS, TEMPERATURE, ROWS, PRECISION, SPECIAL, PART > 0,
                )  # fmt: skip
        in_frame = first + rows < own_end
        kept = own_valid
        if own_mask is not None and F > 2:
            # loaded again rather than held through the loops, where wide flows leave no register for it
            kept = in_frame & (tl.load(own_mask + first.to(tl.int64) + rows, mask=in_frame, other=0) != 0)
        unscale = inv_temperature / tl.load(gradient_scale)
        if ROWS:
            d = tl.arange(0, BLOCK_D)
            gradient = tl.where(kept[:, None], gradient * unscale, 0.0)
            tl.store(
                own_gradient + first.to(tl.int64) * D + rows[:, None] * D + d[None, :],
                rounded_to(gradient, own.dtype.element_ty),
                mask=in_frame[:, None] & (d < D)[None, :],
            )
        if TEMPERATURE:
            temperature_sum = tl.where(kept, temperature_sum * (-unscale * inv_temperature), 0.0)
            tl.store(temperature_rows + first.to(tl.int64) + rows, temperature_sum, mask=in_frame)
