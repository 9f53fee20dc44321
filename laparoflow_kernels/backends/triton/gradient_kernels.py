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

What a row's terms need of its statistics is seven numbers, c0 to c6, that ``coefficients_kernel`` has prepared.

Grid: axis 0 = frame x tile of the owned side, axis 1 = block of BLOCK_D channels of the gradient. Rows of up to 256 channels
are one block. Of wider rows each block forms the logits again, from CHUNK channels of both sides at a time, and the programs
of the first block write the parts of dtemperature. Memory: 7 floats per row and the outputs.
"""

import triton
import triton.language as tl

from .coefficients_kernel import load_coefficients, load_streamed_coefficients
from .pairs import (
    LOG2_E,
    fused,
    load_flow,
    load_own_group,
    load_rows,
    logits,
    other_frame_tile,
    own_rows,
    product,
    rounded_to,
    same_group,
    valid_rows,
)
from .weight_operands_kernel import load_near, load_own_operand, tile_weight


@triton.jit
def lifted(weight, LIFT: tl.constexpr):
    """The weight times LIFT, by which b / W was divided."""
    return weight if LIFT == 1.0 else weight * LIFT


@triton.jit
def side_terms(
    z, scale, weight, distance, factor, coefficients,
    AXIS: tl.constexpr, WEIGHTED: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr, LIFT: tl.constexpr,
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
            terms += lifted(weight, LIFT) * c2
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
    OWN_TERMS: tl.constexpr, OTHER_TERMS: tl.constexpr, LIFT_OTHER: tl.constexpr, LIFT: tl.constexpr,
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
        weight = lifted(weight, LIFT)
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
    LIFT: tl.constexpr,
):  # fmt: skip
    """dS, and (with TEMPERATURE) dS (q.k - c) with the c of the row that each term belongs to.

    z holds the exponentials themselves where BOUNDED.
    """
    LIFT_OTHER: tl.constexpr = RELATIVE and OWN_TERMS
    power = z
    if BOUNDED and not (TEMPERATURE and OWN_TERMS and OTHER_TERMS):
        ds = bounded_terms(power, weight, own, other, WEIGHTED, INSIDE, DISSIMILAR, OWN_TERMS, OTHER_TERMS, LIFT_OTHER, LIFT)
        spread = ds
        if TEMPERATURE:
            spread = ds * (s - own[4][:, None]) if OWN_TERMS else ds * (s - other[4][None, :])
    else:
        ds = tl.zeros_like(s)
        spread = ds
        if OWN_TERMS:
            if BOUNDED:
                part = bounded_terms(power, weight, own, other, WEIGHTED, INSIDE, DISSIMILAR, True, False, LIFT_OTHER, LIFT)
            else:
                part = side_terms(z, scale, weight, distance, factor, own, 1, WEIGHTED, INSIDE, DISSIMILAR, LIFT)
            ds = part
            if TEMPERATURE:
                spread = part * (s - own[4][:, None])
        if OTHER_TERMS:
            if BOUNDED:
                part = bounded_terms(power, weight, own, other, WEIGHTED, INSIDE, DISSIMILAR, False, True, LIFT_OTHER, LIFT)
            else:
                part = side_terms(z, scale, weight, distance, factor, other, 0, WEIGHTED, INSIDE, DISSIMILAR, LIFT)
            ds += part
            if TEMPERATURE:
                spread += part * (s - other[4][None, :])
    return ds, spread


@triton.jit
def backward_tile(
    own, own_flow, own_flow_at, own_operand, near, own_valid, own_group, own_coefficients, other, other_flow_base,
    other_operands, other_mask, other_group, other_coefficient_base,
    total_other, start, end, channel, scale, inverse_bandwidth, gradient, temperature_sum,
    D: tl.constexpr, F: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    FLOW_KERNEL: tl.constexpr, WEIGHTED: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr,
    BOUNDED: tl.constexpr, RELATIVE: tl.constexpr, OWN_TERMS: tl.constexpr, OTHER_TERMS: tl.constexpr,
    TEMPERATURE: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    RAGGED: tl.constexpr,
):  # fmt: skip
    """Gradient of the owned rows after one more tile of the other side."""
    other_valid = valid_rows(other_mask, start, end, BLOCK_N, RAGGED)
    zero = tl.zeros([own_flow[0].shape[0], BLOCK_N], dtype=gradient.dtype)
    s, y = logits(own, other, start, other_valid, zero, D, BLOCK_D, PRECISION)
    # formed before the weights: behind them, the same code takes more registers and spills
    z = s
    if other_valid is not None:
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
            inverse_bandwidth, F, BLOCK_N, FLOW_KERNEL, RAGGED,
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
    if own_group is not None:
        same = same_group(own_group, other_group, start, other_valid, BLOCK_N)
        z = tl.where(same, 0.0 if BOUNDED else -(2.0**126), z)
        weight = tl.where(same, 0.0, weight)
        if not BOUNDED:
            s = z
    ds, spread = terms_of_tile(
        z, s, scale, weight, distance, factor, own_coefficients, other_coefficients,
        WEIGHTED, INSIDE, DISSIMILAR, BOUNDED, RELATIVE, OWN_TERMS, OTHER_TERMS, TEMPERATURE,
        16777216.0 if other.dtype.element_ty == tl.float16 else 1.0,
    )  # fmt: skip
    if TEMPERATURE:
        temperature_sum += tl.sum(spread, 1)
    if ROWS:
        if D > BLOCK_D:
            y = load_rows(other, start, other_valid, D, BLOCK_N, BLOCK_D, channel)
        gradient = product(rounded_to(ds, other.dtype.element_ty), y, gradient, PRECISION)
    return gradient, temperature_sum


@triton.jit(do_not_specialize=["own_chunks", "other_chunks"])
def backward_kernel(
    own, other, own_flow, other_flow, temperature, inverse_bandwidth, own_offsets, other_offsets, own_mask, other_mask,
    own_group, other_group, own_operands, other_operands, own_near, other_near, own_coefficients, other_coefficients,
    gradient_scale, own_gradient, temperature_rows, total_own: tl.int32, total_other: tl.int32, own_tiles: tl.int32,
    own_chunks: tl.int32, other_chunks: tl.int32,
    D: tl.constexpr, F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    FLOW_KERNEL: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr, BATCH: tl.constexpr,
    BOUNDED: tl.constexpr, OWN_TERMS: tl.constexpr, OTHER_TERMS: tl.constexpr, ROWS: tl.constexpr,
    TEMPERATURE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BLOCK_D channels of own_gradient [total_own, D] (with ROWS), temperature_rows [total_own] (with TEMPERATURE)."""
    tile = tl.program_id(0) % own_tiles
    frame = tl.program_id(0) // own_tiles
    own_start = tl.load(own_offsets + frame).to(tl.int32)
    own_end = tl.load(own_offsets + frame + 1).to(tl.int32)
    first = own_start + tile * BLOCK_M
    channel = 0
    if D > BLOCK_D:
        channel = tl.program_id(1) * BLOCK_D
    RELATIVE: tl.constexpr = BOUNDED and own.dtype.element_ty.primitive_bitwidth > 16
    if first < own_end:
        other_start = tl.load(other_offsets + frame).to(tl.int32)
        other_end = tl.load(other_offsets + frame + 1).to(tl.int32)
        inv_bandwidth = tl.load(inverse_bandwidth + frame)
        inv_temperature = 1.0 / tl.load(temperature)
        scale = LOG2_E / tl.load(temperature)
        rows = tl.arange(0, BLOCK_M)
        own_valid = valid_rows(own_mask, first, own_end, BLOCK_M, True)
        x = own_rows(own, first, own_valid, D, BLOCK_M, BLOCK_D)
        x_group = load_own_group(own_group, first, own_valid, BLOCK_M)
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
                    x, x_flow, x_flow_at, x_operand, near, own_valid, x_group, x_coefficients, other, other_flow,
                    other_operands, other_mask, other_group, other_coefficients,
                    total_other, start, end, channel, scale, inv_bandwidth, gradient, temperature_sum,
                    D, F, BLOCK_N, BLOCK_D, FLOW_KERNEL, PART < 2, INSIDE, DISSIMILAR, BOUNDED, RELATIVE, OWN_TERMS,
                    OTHER_TERMS, TEMPERATURE, ROWS, PRECISION, PART > 0,
                )  # fmt: skip
        in_frame = first + rows < own_end
        kept = own_valid
        if own_mask is not None and F > 2:
            # loaded again rather than held through the loops, where wide flows leave no register for it
            kept = in_frame & (tl.load(own_mask + first.to(tl.int64) + rows, mask=in_frame, other=0) != 0)
        unscale = inv_temperature / tl.load(gradient_scale)
        if ROWS:
            d = channel + tl.arange(0, BLOCK_D)
            gradient = tl.where(kept[:, None], gradient * unscale, 0.0)
            tl.store(
                own_gradient + first.to(tl.int64) * D + rows[:, None] * D + d[None, :],
                rounded_to(gradient, own.dtype.element_ty),
                mask=in_frame[:, None] & (d < D)[None, :],
            )
        if TEMPERATURE:
            temperature_sum = tl.where(kept, temperature_sum * (-unscale * inv_temperature), 0.0)
            tl.store(temperature_rows + first.to(tl.int64) + rows, temperature_sum, mask=in_frame & (channel == 0))
