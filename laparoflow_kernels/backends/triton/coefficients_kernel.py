"""Coefficients of the rows of dS: seven numbers a row, so that guards (lse = -inf, W = 0) are paid once per row.

With the statistics of a row, its upstream gradients a = dL/dlse, b = dL/dpositive, and dS as in ``gradient_kernels``:

    bounded     c0 = a e^-lse    c1 = [lse log2 e]   outside: c2 = b / W   inside: c2 = b e^-positive, c3 = 1
    otherwise   c0 = a           c1 = t lse          outside: c2 = b / W   inside: c2 = b,     c3 = t positive

(otherwise c1, c3 in units of q.k). The bounded c1 is an integer, for float32 inputs (RELATIVE): the exponential is then
2^(z - c1), whose argument is small for the pairs that matter, so that the rounding of a large logit does not enter, and 2^c1
goes into the coefficients exactly; with terms of both sides, c1 is that of the owned row. 16-bit inputs round dS itself far
more coarsely and take 2^z.

Where W is tiny the weights are taken relative to it, so that a tiny weight and a large exponential do not meet in two
rounded products: bounded c2 = b / W, c3 = W e^-positive; otherwise c3 = t (positive - ln W), c6 = -log2 W (0 elsewhere).
Where all weights are 1 both terms then hold the same numbers and cancel exactly.

c0 and c2 times ``gradient_scale``, a power of two that keeps b / W finite and is divided out at the end; where b is divided
by W it is divided by LIFT too, which the weights (inside: c3) have, so that float16 does not underflow;
c4 is the c_i of dtemperature and c5 = c4 (a + b), unscaled, the host's part of it.

Memory: 7 floats per row.
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
    load_or,
    power_of_two,
    scale_error,
)


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
    BLOCK: tl.constexpr, INSIDE: tl.constexpr, BOUNDED: tl.constexpr, LIFT: tl.constexpr,
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
        b = b / LIFT / safe_sum
    elif BOUNDED:
        # W e^-positive is within e^-40 .. e^40, its factors are not: small W are lifted by 2^64 first
        small = safe_sum < 9.094947017729282e-13
        lifted = tl.where(has_positive, tl.where(small, positive + 64.0 * LN_2, positive), 0.0)
        power = accurate_exp(-lifted)
        b = tl.where(small, b / LIFT / safe_sum, b * power)
        ratio = tl.where(small, safe_sum * (1.8446744073709552e19 * LIFT) * power, 1.0)
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
