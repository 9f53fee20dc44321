"""Forward statistics of the flow-weighted InfoNCE: one pass over the pairs, no N x M matrix.

For every valid row i, over the valid columns j (z = s log2 e, s = q_i.k_j / temperature):

    den = sum n_ij 2^(z_ij - m_i)     W  = sum w_ij     H = sum w_ij log2 w_ij
    X   = sum w_ij (q_i.k_j - m_i)  (outside)      sum w_ij 2^(z_ij - mp_i)  (inside)

``bounded`` fixes m = mp = 0 for all rows (|s| <= 40: every sum fits float32, that of "inside" after its weights are lifted
by 2^LIFT) and takes X (outside) of the plain products; otherwise m and mp are running maxima, kept in units of q.k: z - m is
the difference of two products, scaled after the subtraction, so that a large logit is not rounded twice. X relative to the
same m lets the large parts of lse and positive cancel exactly in the loss (one positive pixel that takes all: a loss of 0,
not of a rounding).

The symmetric loss runs this kernel once for each direction.

Grid: axis 0 = frame x row tile, axis 1 = split of the key tiles. Each program keeps the row sums of its tile in registers
and writes them to a partial buffer [splits, quantities, Tq], so the order of every sum is fixed. Whole tiles run a loop of
their own without bounds; its number of stages is given explicitly because Triton otherwise stages only the operands of
products, and the flows would be loaded when they are needed. ``finish_kernel`` adds the partials and forms [4, T] (lse,
weight_sum, positive, weight_log_sum).

Memory: splits * Tq * 4 to 6 floats.
"""

import triton
import triton.language as tl

from .finish_kernel import finite, merge, merge_centred
from .pairs import (
    INTERPRETED,
    LOG2_E,
    load_flow,
    load_own_group,
    logits,
    other_frame_tile,
    own_rows,
    same_group,
    valid_rows,
)
from .weight_operands_kernel import load_near, load_own_operand, tile_weight


@triton.jit
def add_three(a0, b0, c0, a1, b1, c1):
    """One step of the joint reduction in ``sums``, without H."""
    return a0 + a1, b0 + b1, c0 + c1


@triton.jit
def add_four(a0, b0, c0, d0, a1, b1, c1, d1):
    """One step of the joint reduction in ``sums``."""
    return a0 + a1, b0 + b1, c0 + c1, d0 + d1


@triton.jit
def sums(den, w, h, x, WEIGHT_STATS: tl.constexpr):
    """The row sums (den, W, H, X) by one reduction; H means nothing unless asked for.

    A reduction of several operands has one layout, that of the product; alone, the weights (which do not depend on the
    product) would be formed a second time in a layout of their own.
    """
    if INTERPRETED:
        return tl.sum(den, 1), tl.sum(w, 1), tl.sum(h, 1), tl.sum(x, 1)
    elif WEIGHT_STATS:
        return tl.reduce((den, w, h, x), 1, add_four)
    else:
        den_sum, w_sum, x_sum = tl.reduce((den, w, x), 1, add_three)
        return den_sum, w_sum, tl.zeros_like(w_sum), x_sum


@triton.jit
def halves(x):
    """The left and the right half of the columns."""
    return tl.split(tl.permute(tl.reshape(x, [x.shape[0], 2, x.shape[1] // 2]), [0, 2, 1]))


@triton.jit
def add_lanes(
    den, w, h, x, s, power, weight, exponent,
    LANES: tl.constexpr, WEIGHTED: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr, LIFT: tl.constexpr,
    WEIGHT_STATS: tl.constexpr,
):  # fmt: skip
    """Sums (den, W, H, X), each [rows, LANES], after one more tile: columns that are LANES apart are added.

    The columns of a lane lie in one thread, so that no sum crosses threads before the end, and each of H and X takes one
    fused multiply-add per pair.
    """
    if power.shape[1] == LANES:
        term = power
        if WEIGHTED:
            if DISSIMILAR:
                term = power * (1.0 - weight)
            w += weight
            if WEIGHT_STATS:
                h += weight * exponent
            x += (weight * (2.0**LIFT)) * power if INSIDE else weight * s
        return den + term, w, h, x
    else:
        s_left, s_right = halves(s)
        power_left, power_right = halves(power)
        weight_left, weight_right = halves(weight)
        exponent_left, exponent_right = halves(exponent)
        den, w, h, x = add_lanes(
            den, w, h, x, s_left, power_left, weight_left, exponent_left, LANES, WEIGHTED, INSIDE, DISSIMILAR, LIFT,
            WEIGHT_STATS,
        )  # fmt: skip
        return add_lanes(
            den, w, h, x, s_right, power_right, weight_right, exponent_right, LANES, WEIGHTED, INSIDE, DISSIMILAR, LIFT,
            WEIGHT_STATS,
        )  # fmt: skip


@triton.jit
def tile_sums(
    s, z, scale, weight, distance, factor,
    WEIGHTED: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr, BOUNDED: tl.constexpr,
    LIFT: tl.constexpr, WEIGHT_STATS: tl.constexpr,
):  # fmt: skip
    """Row sums of one tile as (den, m, W, H, X, mp); z holds the exponentials themselves where BOUNDED."""
    zero = tl.zeros([z.shape[0]], dtype=z.dtype)
    if BOUNDED:
        m = zero
        power = z
    else:
        # z is not scaled yet: the difference of two large logits comes before the rounding of a product
        kept = z
        if WEIGHTED and DISSIMILAR:
            kept = tl.where(weight < 1.0, kept, float("-inf"))
        m = tl.max(kept, 1)
        power = tl.exp2((kept - finite(m)[:, None]) * scale)
    term = power
    if WEIGHTED and DISSIMILAR:
        term = power * (1.0 - weight)
    if WEIGHTED:
        positive_m = zero
        if not INSIDE:
            positive = weight * s if BOUNDED else weight * (s - finite(m)[:, None])
        elif BOUNDED:
            positive = (weight * (2.0**LIFT)) * power
        else:
            positive_m = tl.max(tl.where(weight > 0.0, z + distance * (factor / scale), float("-inf")), 1)
            exponent = (z - finite(positive_m)[:, None]) * scale + distance * factor
            positive = tl.exp2(tl.where(weight > 0.0, exponent, float("-inf")))
        denominator, weight_sum, weighted_distance, positive = sums(
            term, weight, weight * distance, positive, WEIGHT_STATS
        )
        return denominator, m, weight_sum, weighted_distance * factor, positive, positive_m
    else:
        return tl.sum(term, 1), m, zero, zero, zero, zero


@triton.jit
def forward_tile(
    q, q_flow, q_flow_at, q_operand, near, q_valid, q_group, key, key_flow, key_operands, key_mask, key_group,
    start, end, scale, inverse_bandwidth, den, m, w, h, x, mp,
    D: tl.constexpr, F: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    FLOW_KERNEL: tl.constexpr, WEIGHTED: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr,
    BOUNDED: tl.constexpr, LIFT: tl.constexpr, PRECISION: tl.constexpr, LANES: tl.constexpr,
    RAGGED: tl.constexpr, WEIGHT_STATS: tl.constexpr,
):  # fmt: skip
    """Row sums after one more tile of keys start..end."""
    k_valid = valid_rows(key_mask, start, end, BLOCK_N, RAGGED)
    zero = tl.zeros([q_flow[0].shape[0], BLOCK_N], dtype=den.dtype)
    s, _ = logits(q, key, start, k_valid, zero, D, BLOCK_D, PRECISION)
    z = s
    if k_valid is not None:
        bias = tl.where(k_valid, 0.0, float("-inf"))[None, :]
        z = tl.exp2(s * scale + bias) if BOUNDED else s + bias
    elif BOUNDED:
        z = tl.exp2(s * scale)
    weight = s
    distance = s
    factor = scale
    if WEIGHTED:
        weight, distance, factor = tile_weight(
            q_flow, q_flow_at, q_valid, q_operand, near, key_flow, key_operands, start, k_valid, inverse_bandwidth,
            F, BLOCK_N, FLOW_KERNEL, RAGGED,
        )  # fmt: skip
    if q_group is not None:
        same = same_group(q_group, key_group, start, k_valid, BLOCK_N)
        z = tl.where(same, 0.0 if BOUNDED else float("-inf"), z)
        weight = tl.where(same, 0.0, weight)
    if LANES:
        den, w, h, x = add_lanes(
            den, w, h, x, s, z, weight, distance * factor, LANES, WEIGHTED, INSIDE, DISSIMILAR, LIFT, WEIGHT_STATS
        )
    else:
        tile_den, tm, tw, th, tx, tmp = tile_sums(
            s, z, scale, weight, distance, factor, WEIGHTED, INSIDE, DISSIMILAR, BOUNDED, LIFT, WEIGHT_STATS
        )
        den, new_m = merge(den, m, tile_den, tm, scale, BOUNDED)
        if not BOUNDED and not INSIDE:
            x = merge_centred(x, w, m, tx, tw, tm, new_m)
        elif WEIGHTED:
            x, mp = merge(x, mp, tx, tmp, scale, BOUNDED)
        m = new_m
        if WEIGHTED:
            w += tw
            if WEIGHT_STATS:
                h += th
    return den, m, w, h, x, mp


@triton.jit(do_not_specialize=["query_chunks", "key_chunks"])
def forward_kernel(
    query, key, query_flow, key_flow, temperature, inverse_bandwidth, query_offsets, key_offsets, query_mask, key_mask,
    query_group, key_group, query_operands, key_operands, query_near, key_near, row_partial,
    total_query: tl.int32, total_key: tl.int32, row_tiles: tl.int32, splits: tl.int32,
    query_chunks: tl.int32, key_chunks: tl.int32,
    D: tl.constexpr, F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    FLOW_KERNEL: tl.constexpr, INSIDE: tl.constexpr, DISSIMILAR: tl.constexpr, BATCH: tl.constexpr,
    BOUNDED: tl.constexpr, LIFT: tl.constexpr, QUANTITIES: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr, LANES: tl.constexpr, WEIGHT_STATS: tl.constexpr,
):  # fmt: skip
    """Partial sums of the rows of one tile against one split of the keys."""
    row_tile = tl.program_id(0) % row_tiles
    frame = tl.program_id(0) // row_tiles
    split = tl.program_id(1)
    q_start = tl.load(query_offsets + frame).to(tl.int32)
    q_end = tl.load(query_offsets + frame + 1).to(tl.int32)
    k_start = tl.load(key_offsets + frame).to(tl.int32)
    k_end = tl.load(key_offsets + frame + 1).to(tl.int32)
    inv_bandwidth = tl.load(inverse_bandwidth + frame)
    scale = LOG2_E / tl.load(temperature)
    row_slot = row_partial + split.to(tl.int64) * QUANTITIES * total_query

    key_tiles = tl.cdiv(k_end - k_start, BLOCK_N)
    keys_per_split = tl.cdiv(key_tiles, splits)
    first_key = split * keys_per_split
    last_key = tl.minimum(first_key + keys_per_split, key_tiles)
    last_full = tl.maximum(first_key, tl.minimum(last_key, (k_end - k_start) // BLOCK_N))
    other_tiles = tl.cdiv(k_start, BLOCK_N) + tl.cdiv(total_key - k_end, BLOCK_N)
    others_per_split = tl.cdiv(other_tiles, splits)
    first_other = split * others_per_split
    last_other = tl.minimum(first_other + others_per_split, other_tiles)

    q_first = q_start + row_tile * BLOCK_M
    if q_first < q_end:
        q_valid = valid_rows(query_mask, q_first, q_end, BLOCK_M, True)
        q = own_rows(query, q_first, q_valid, D, BLOCK_M, BLOCK_D)
        q_group = load_own_group(query_group, q_first, q_valid, BLOCK_M)
        q_flow_at = query_flow + q_first.to(tl.int64) * F
        q_flow = load_flow(q_flow_at, tl.arange(0, BLOCK_M), q_valid, float("-inf"), F)
        q_operand = None
        q_near = 1
        if query_operands is not None:
            q_operand = load_own_operand(query_operands, q_first, q_valid, BLOCK_M)
            q_near = load_near(query_near, frame, query_chunks, row_tile * BLOCK_M, BLOCK_M)
        m = tl.zeros([BLOCK_M], dtype=scale.dtype)
        mp = m
        den = tl.zeros([BLOCK_M, LANES], dtype=scale.dtype) if LANES else m
        w = den
        h = den
        x = den
        if not BOUNDED:
            m = den - float("inf")
            if INSIDE:
                mp = m
        # whole tiles of the frame, its last ragged tile, tiles of other frames
        for PART in tl.static_range(3 if BATCH else 2):
            first_tile = first_key if PART == 0 else last_full if PART == 1 else first_other
            last_tile = last_full if PART == 0 else last_key if PART == 1 else last_other
            for tile in tl.range(first_tile, last_tile, num_stages=1 if PART == 1 else STAGES):
                start = k_start + tile * BLOCK_N
                end = k_end
                if PART == 2:
                    start, end = other_frame_tile(tile, k_start, k_end, total_key, BLOCK_N)
                both_near = q_near
                if query_operands is not None and PART < 2:
                    both_near = q_near & load_near(key_near, frame, key_chunks, tile * BLOCK_N, BLOCK_N)
                den, m, w, h, x, mp = forward_tile(
                    q, q_flow, q_flow_at, q_operand, both_near, q_valid, q_group, key, key_flow, key_operands, key_mask,
                    key_group, start, end, scale, inv_bandwidth, den, m, w, h, x, mp,
                    D, F, BLOCK_N, BLOCK_D, FLOW_KERNEL, PART < 2, INSIDE, DISSIMILAR, BOUNDED, LIFT,
                    PRECISION, LANES, PART > 0, WEIGHT_STATS,
                )  # fmt: skip
        if LANES:
            den, w, h, x = sums(den, w, h, x, WEIGHT_STATS)
        inside_frame = q_first + tl.arange(0, BLOCK_M) < q_end
        at = row_slot + q_first.to(tl.int64) + tl.arange(0, BLOCK_M)
        stride = total_query.to(tl.int64)
        tl.store(at, den, mask=inside_frame)
        tl.store(at + stride, w, mask=inside_frame)
        if WEIGHT_STATS:
            tl.store(at + 2 * stride, h, mask=inside_frame)
        tl.store(at + 3 * stride, x, mask=inside_frame)
        if not BOUNDED:
            tl.store(at + 4 * stride, m, mask=inside_frame)
            if INSIDE:
                tl.store(at + 5 * stride, mp, mask=inside_frame)
