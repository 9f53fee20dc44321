"""sums_ic = sum_j w_ij values_jc and W_i = sum_j w_ij without the N x M matrix of weights.

query_flow [Tq, F], key_flow [Tk, F], values [Tk, C] -> sums [Tq, C], weight_sum [Tq], within each frame.
Grid: axis 0 = frame x tile of queries, axis 1 = block of channels (the weights are formed again for each).
The products run in float32: weights are not rounded to the dtype of the values.
"""

import triton
import triton.language as tl

from .pairs import load_flow, pair_weight, product, squared_distance, valid_rows


@triton.jit
def weighted_sum_kernel(
    query_flow, key_flow, values, inverse_bandwidth, query_offsets, key_offsets, query_mask, key_mask,
    sums, weight_sum, query_tiles: tl.int32, channels: tl.int32,
    F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    FLOW_KERNEL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries against all keys of its frame, for one block of channels."""
    tile = tl.program_id(0) % query_tiles
    frame = tl.program_id(0) // query_tiles
    q_start = tl.load(query_offsets + frame).to(tl.int32)
    q_end = tl.load(query_offsets + frame + 1).to(tl.int32)
    first = q_start + tile * BLOCK_M
    if first < q_end:
        k_start = tl.load(key_offsets + frame).to(tl.int32)
        k_end = tl.load(key_offsets + frame + 1).to(tl.int32)
        inv_bandwidth = tl.load(inverse_bandwidth + frame)
        rows = tl.arange(0, BLOCK_M)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        q_valid = valid_rows(query_mask, first, q_end, BLOCK_M, True)
        q_flow = load_flow(query_flow + first.to(tl.int64) * F, rows, q_valid, float("-inf"), F)
        total = tl.zeros([BLOCK_M, BLOCK_C], dtype=inv_bandwidth.dtype)
        w = tl.zeros([BLOCK_M], dtype=inv_bandwidth.dtype)
        for t in range(0, tl.cdiv(k_end - k_start, BLOCK_N)):
            start = k_start + t * BLOCK_N
            k_valid = valid_rows(key_mask, start, k_end, BLOCK_N, True)
            k_flow = load_flow(key_flow + start.to(tl.int64) * F, tl.arange(0, BLOCK_N), k_valid, float("inf"), F)
            weight, _, _ = pair_weight(squared_distance(q_flow, k_flow, F), inv_bandwidth, FLOW_KERNEL)
            value = tl.load(
                values + start.to(tl.int64) * channels + tl.arange(0, BLOCK_N)[:, None] * channels + c[None, :],
                mask=k_valid[:, None] & (c < channels)[None, :],
                other=0.0,
            ).to(total.dtype)
            total = product(weight, value, total, PRECISION)
            w += tl.sum(weight, 1)
        in_frame = first + rows < q_end
        tl.store(
            sums + first.to(tl.int64) * channels + rows[:, None].to(tl.int64) * channels + c[None, :],
            tl.where(q_valid[:, None], total, 0.0),
            mask=in_frame[:, None] & (c < channels)[None, :],
        )
        if tl.program_id(1) == 0:
            tl.store(weight_sum + first.to(tl.int64) + rows, tl.where(q_valid, w, 0.0), mask=in_frame)
