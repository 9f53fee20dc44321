"""Sums relative to running maxima, how partial ones merge, and the statistics that they make.

    lse = log2(den) ln 2 + m / t     positive = (X / W + m) / t  (outside)     log2(X) ln 2 + mp / t - LIFT ln 2  (inside)

with the sums of ``statistics_kernels``, m and mp in units of q.k; m = mp = 0 where logits are bounded.
"""

import triton
import triton.language as tl

from .pairs import LN_2, LOG2_E, exact_product, scale_error


@triton.jit
def rescale(maximum, new_maximum, scale):
    """2^((old - new) scale) for running maxima that start at -inf."""
    return tl.where(maximum == float("-inf"), 0.0, tl.exp2((maximum - new_maximum) * scale))


@triton.jit
def finite(maximum):
    """A maximum that can be subtracted: 0 where nothing was seen yet."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def merge(total, maximum, part, part_maximum, scale, BOUNDED: tl.constexpr):
    """(den, m) of two sums of powers of two relative to their maxima."""
    if BOUNDED:
        merged = total + part
        new_maximum = maximum
    else:
        new_maximum = tl.maximum(maximum, part_maximum)
        merged = total * rescale(maximum, new_maximum, scale) + part * rescale(part_maximum, new_maximum, scale)
    return merged, new_maximum


@triton.jit
def merge_centred(x, w, m, part, part_w, part_m, new_m):
    """Sum of w (q.k - new_m) from two such sums, each relative to its own maximum."""
    return x + w * (finite(m) - finite(new_m)) + (part + part_w * (finite(part_m) - finite(new_m)))


@triton.jit
def divided(a, b):
    """a / b rounded once: the plain division of float32 may be off by two."""
    b = tl.broadcast_to(b, a.shape)
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b


@triton.jit
def over_temperature(x, t, more):
    """x / t + more with one rounding of the size of x / t, by the same 1 / t as the pairs."""
    whole = divided(x, t)
    back, dropped = exact_product(whole, t)
    return whole + (more + (((x - back) - dropped) / t + whole * scale_error(t)))


@triton.jit
def logarithm_of(total, maximum, t, LIFT: tl.constexpr):
    """ln(total 2^-LIFT) + maximum / t with one rounding of that size.

    The lift is taken off before the logarithm where that cannot underflow.
    """
    if LIFT == 0.0:
        result = over_temperature(finite(maximum), t, tl.log2(total) * LN_2)
    else:
        safe = total > 1e-20
        result = tl.log2(tl.where(safe, total * (2.0**-LIFT), total)) - tl.where(safe, 0.0, LIFT)
        result = result * LN_2
    return result


@triton.jit
def finish_kernel(
    partial, mask, temperature, stats, total: tl.int32, splits: tl.int32,
    BLOCK: tl.constexpr, INSIDE: tl.constexpr, BOUNDED: tl.constexpr, LIFT: tl.constexpr,
    QUANTITIES: tl.constexpr, WEIGHT_STATS: tl.constexpr,
):  # fmt: skip
    """stats [4, total] = (lse, weight_sum, positive, weight_log_sum) from partial [splits, QUANTITIES, total].

    Without WEIGHT_STATS the last is 0, and its partial sums are not there.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = rows < total
    stride = total.to(tl.int64)
    t = tl.load(temperature)
    scale = LOG2_E / t
    t = t + tl.zeros([BLOCK], dtype=scale.dtype)
    den = tl.zeros([BLOCK], dtype=scale.dtype)
    w = den
    h = den
    x = den
    m = den
    mp = den
    if not BOUNDED:
        m = den - float("inf")
        if INSIDE:
            mp = m
    for split in range(0, splits):
        at = partial + split * (stride * QUANTITIES) + rows
        part_m = m
        part_mp = mp
        if not BOUNDED:
            part_m = tl.load(at + 4 * stride, mask=valid, other=0.0)
            if INSIDE:
                part_mp = tl.load(at + 5 * stride, mask=valid, other=0.0)
        part_w = tl.load(at + stride, mask=valid, other=0.0)
        part_x = tl.load(at + 3 * stride, mask=valid, other=0.0)
        den, new_m = merge(den, m, tl.load(at, mask=valid, other=0.0), part_m, scale, BOUNDED)
        if not BOUNDED and not INSIDE:
            x = merge_centred(x, w, m, part_x, part_w, part_m, new_m)
        else:
            x, mp = merge(x, mp, part_x, part_mp, scale, BOUNDED)
        m = new_m
        w += part_w
        if WEIGHT_STATS:
            h += tl.load(at + 2 * stride, mask=valid, other=0.0)
    lse = logarithm_of(den, m, t, 0.0)
    lse = tl.where(den == 0.0, float("-inf"), lse)  # a NaN stays, so that it shows in the loss
    if INSIDE:
        positive = logarithm_of(x, mp, t, LIFT)
        positive = tl.where(x == 0.0, float("-inf"), positive)
    else:
        mean = divided(x, tl.where(w > 0.0, w, 1.0))
        if not BOUNDED:
            mean += finite(m)
        positive = tl.where(w > 0.0, over_temperature(mean, t, 0.0), 0.0)
    if mask is not None:
        # rows alone carry no marker in the softmax sums: a masked row has seen the keys with a zero embedding
        lse = tl.where(tl.load(mask + rows, mask=valid, other=0) != 0, lse, float("-inf"))
    tl.store(stats + rows, lse, mask=valid)
    tl.store(stats + stride + rows, w, mask=valid)
    tl.store(stats + 2 * stride + rows, positive, mask=valid)
    tl.store(stats + 3 * stride + rows, h * LN_2, mask=valid)
