// Tile products on the sm_80 tensor cores: one engine for the 16-bit types, one for float32.
//
// A warp owns 16 * kRowTiles rows of the block's row tile and all kColumns columns of a column tile.
// Both tiles lie in shared memory row by row, `stride` elements apart, depth padded to 16 with zeros.
//   logits:    c[i][j] = sum_d rows[i][d] cols[j][d]            (both operands from shared memory)
//   gradient:  g[i][d] += sum_j p[i][j] cols[j][d]              (p from the registers of `logits`)
// The stride is 16 bytes more than a multiple of 32, so the 8 rows of a fragment hit different banks.
//
// What a kernel asks of an engine: the constants below, tile_bytes, tile_offset, logits, gradient.
#pragma once

#include "../common/backward.cuh"
#include "instructions.cuh"

namespace laparoflow::cuda {

/// What the engines of sm_80 have in common: tiles row by row, kPad elements (16 bytes) behind each row.
template <class T, int kPad>
struct EngineRows {
  using Type = T;
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));  // elements in 16 bytes
  static constexpr int kDepthStep = 16;
  static constexpr int kFewestWarps = 1, kFewestStages = 1;
  static constexpr bool kWarpgroups = false;
  // Of four bounded logits, how many take their exponential on the multiply-add units; the weights, whose exponents would
  // have to be clamped first, all take the exp unit. So the default form has 1.25 operations a pair there.
  static constexpr int kPolynomialShare = 3;
  static constexpr int kFactorBytes = 0;  // of a tile's factors of weights: none here
  static constexpr int kForwardThreads = 128, kForwardBlocks = 2;
  static constexpr int forward_warps(bool) { return kForwardThreads / 32; }

  LAPAROFLOW_HOST_DEVICE static int stride(int depth) { return depth + kPad; }
  LAPAROFLOW_HOST_DEVICE static int tile_bytes(int rows, int depth) {
    return rows * stride(depth) * static_cast<int>(sizeof(T));
  }
  /// Where element (row, d) of a tile lies.
  LAPAROFLOW_HOST_DEVICE static int tile_offset(int row, int d, int depth) { return row * stride(depth) + d; }

  /// The rows of this thread's warp in a row tile, and zeros for their logits.
  template <int kRowTiles, int kTiles>
  LAPAROFLOW_DEVICE static const T* rows_of_warp(float (&c)[kRowTiles][kTiles][4], const T* tile, int depth) {
    for (int m = 0; m < kRowTiles; ++m)
      for (int n = 0; n < kTiles; ++n)
        for (int e = 0; e < 4; ++e) c[m][n][e] = 0.0f;
    return tile + thread_index() / 32 * 16 * kRowTiles * stride(depth);
  }

  bool full_float;  // float32 by five products; those of 16-bit numbers are exact in float32 anyway
};

template <class T>
struct EngineHalf : EngineRows<T, 8> {
  static constexpr int kColumns = 64;
  static constexpr int kColumnTiles = kColumns / 8;
  static constexpr int kForwardRowTiles = 2;
  static constexpr int backward_threads(int row_tiles) { return row_tiles == 2 ? 128 : 256; }
  static constexpr int backward_blocks(int row_tiles) { return row_tiles == 2 ? 2 : 1; }
  static constexpr int backward_warps(int row_tiles) { return row_tiles == 2 ? 4 : 8; }

  template <int kRowTiles>
  LAPAROFLOW_DEVICE void logits(float (&c)[kRowTiles][kColumnTiles][4], const T* tile, const T* cols, int depth,
                                Lane at = Lane()) const {
    const int stride = this->stride(depth);
    const auto* rows = this->rows_of_warp(c, tile, depth);
    const std::uint32_t row_at = shared_address(rows + (at.lane & 15) * stride + (at.lane >> 4) * 8);
    const std::uint32_t col_at =
        shared_address(cols + ((at.lane & 7) + (at.lane >> 4) * 8) * stride + ((at.lane >> 3) & 1) * 8);
#pragma unroll 2
    for (int k = 0; k < depth; k += 16) {
      std::uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) load_matrices(a[m], row_at + (m * 16 * stride + k) * 2);
#pragma unroll
      for (int n = 0; n < kColumnTiles; n += 2) {
        std::uint32_t b[4];
        load_matrices(b, col_at + (n * 8 * stride + k) * 2);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          multiply_add(c[m][n], a[m], b[0], b[1], T{});
          multiply_add(c[m][n + 1], a[m], b[2], b[3], T{});
        }
      }
    }
  }

  template <int kRowTiles, int kDepthTiles>
  LAPAROFLOW_DEVICE void gradient(float (&g)[kRowTiles][kDepthTiles][4], const float (&p)[kRowTiles][kColumnTiles][4],
                                  const T* cols, int depth) const {
    const Lane at;
    const int stride = this->stride(depth);
    const std::uint32_t col_at =
        shared_address(cols + ((at.lane & 7) + ((at.lane >> 3) & 1) * 8) * stride + (at.lane >> 4) * 8);
#pragma unroll
    for (int n = 0; n < kColumnTiles; n += 2) {
      std::uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        a[m][0] = pack_operands(p[m][n][0], p[m][n][1], T{});
        a[m][1] = pack_operands(p[m][n][2], p[m][n][3], T{});
        a[m][2] = pack_operands(p[m][n + 1][0], p[m][n + 1][1], T{});
        a[m][3] = pack_operands(p[m][n + 1][2], p[m][n + 1][3], T{});
      }
#pragma unroll
      for (int d = 0; d < kDepthTiles; d += 2) {
        if (d * 8 < depth) {
          std::uint32_t b[4];
          load_matrices_transposed(b, col_at + (n * 8 * stride + d * 8) * 2);
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            multiply_add(g[m][d], a[m], b[0], b[1], T{});
            multiply_add(g[m][d + 1], a[m], b[2], b[3], T{});
          }
        }
      }
    }
  }

  // One pass for both gradients: the block's dS, rounded, goes through shared memory, [rows, kColumns] row by row, so
  // that each warp can sum some of the columns' gradient over all rows of the block.
  static constexpr int kOnePassDepth = 128;  // above, adding up the columns' sums costs more than a second pass
  LAPAROFLOW_HOST_DEVICE static int scores_bytes(int rows) { return EngineHalf::tile_bytes(rows, kColumns); }

  template <int kRowTiles>
  LAPAROFLOW_DEVICE void store_scores(char* scores, const float (&p)[kRowTiles][kColumnTiles][4]) const {
    const Lane at;
    std::uint32_t* to = reinterpret_cast<std::uint32_t*>(scores);
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const int row = thread_index() / 32 * 16 * kRowTiles + at.group + r * 8;
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
        to[row * (this->stride(kColumns) / 2) + n * 4 + at.quad] =
            pack_operands(p[r / 2][n][(r & 1) * 2], p[r / 2][n][(r & 1) * 2 + 1], T{});
    }
  }

  /// Adds sum_i dS_i,column rows_i,d to the sums of a slot, once the scores of all `warps` are visible. Pieces of 16 columns
  /// x 64 of the depth are dealt out to the warps.
  LAPAROFLOW_DEVICE void column_gradient(const char* scores, const T* rows, int row_count, int warps, int depth,
                                         const ColumnSums& sums, std::int64_t slot) const {
    const Lane at;
    const int stride = this->stride(depth), score_stride = this->stride(kColumns);
    const int pieces = (depth + 63) / 64 * (kColumns / 16);
#pragma unroll 1
    for (int piece = thread_index() / 32; piece < pieces; piece += warps) {
      const int column = piece % (kColumns / 16) * 16, first = piece / (kColumns / 16) * 64;
      const std::uint32_t score_at =
          shared_address(reinterpret_cast<const T*>(scores) + ((at.lane & 7) + (at.lane >> 4) * 8) * score_stride + column +
                         ((at.lane >> 3) & 1) * 8);
      const std::uint32_t row_at =
          shared_address(rows + ((at.lane & 7) + ((at.lane >> 3) & 1) * 8) * stride + first + (at.lane >> 4) * 8);
      float h[8][4];
#pragma unroll
      for (int d = 0; d < 8; ++d)
#pragma unroll
        for (int e = 0; e < 4; ++e) h[d][e] = 0.0f;
#pragma unroll 2
      for (int i = 0; i < row_count; i += 16) {
        std::uint32_t a[4];
        load_matrices_transposed(a, score_at + i * score_stride * 2);
#pragma unroll
        for (int d = 0; d < 8; d += 2)
          if (first + d * 8 < depth) {
            std::uint32_t b[4];
            load_matrices_transposed(b, row_at + (i * stride + d * 8) * 2);
            multiply_add(h[d], a, b[0], b[1], T{});
            multiply_add(h[d + 1], a, b[2], b[3], T{});
          }
      }
      float* to = sums.fragments(slot, column) + ColumnSums::place(at.lane, first);
#pragma unroll
      for (int d = 0; d < 8; ++d)
        if (first + d * 8 < depth) add_to_global(to + d * 128, h[d]);
    }
  }
};

/// float32: one tf32 product, or with `full_float` five of them on x = high + low + rest. Two parts, of 11 bits each, are
/// not enough: at a temperature of 0.01 what they leave out, 2^-23 of a factor, is twice the rounding of a logit.
struct EngineFloat : EngineRows<float, 4> {
  static constexpr int kPolynomialShare = 4;  // the exp unit would round the exponent before
  static constexpr int kColumns = 32;
  static constexpr int kColumnTiles = kColumns / 8;
  static constexpr int kForwardRowTiles = 1;
  static constexpr int backward_threads(int) { return 128; }
  static constexpr int backward_blocks(int) { return 1; }
  static constexpr int backward_warps(int) { return 4; }
  static constexpr int kOnePassDepth = 0;  // always two passes
  static constexpr int scores_bytes(int) { return 0; }

  /// Numbers as the sum of three of tf32.
  template <int kCount>
  struct Parts {
    std::uint32_t high[kCount], low[kCount], rest[kCount];
    LAPAROFLOW_DEVICE Parts() {}
    LAPAROFLOW_DEVICE explicit Parts(const float (&x)[kCount]) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        high[i] = round_to_tf32(x[i]);
        const float after_high = x[i] - DeviceMath::from_bits(high[i]);
        low[i] = round_to_tf32(after_high);
        rest[i] = round_to_tf32(after_high - DeviceMath::from_bits(low[i]));
      }
    }
  };

  /// c += a b. The tensor core cuts off what it adds to an accumulator, always toward zero. With `full_float` it therefore
  /// starts from zero each time, and the sums over the depth or the columns are rounded to nearest, as float32 is.
  LAPAROFLOW_DEVICE void product(float (&c)[4], const Parts<4>& a, const float (&x)[2]) const {
    const Parts<2> b(x);
    if (!full_float) return multiply_add_tf32(c, a.high, b.high[0], b.high[1]);
    float high[4] = {0.0f, 0.0f, 0.0f, 0.0f}, low[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    multiply_add_tf32(low, a.rest, b.high[0], b.high[1]);
    multiply_add_tf32(low, a.high, b.rest[0], b.rest[1]);
    multiply_add_tf32(low, a.low, b.high[0], b.high[1]);
    multiply_add_tf32(low, a.high, b.low[0], b.low[1]);
    multiply_add_tf32(high, a.high, b.high[0], b.high[1]);
#pragma unroll
    for (int e = 0; e < 4; ++e) c[e] += high[e] + low[e];
  }

  template <int kRowTiles>
  LAPAROFLOW_DEVICE void logits(float (&c)[kRowTiles][kColumnTiles][4], const float* tile, const float* cols, int depth,
                                Lane at = Lane()) const {
    const int stride = this->stride(depth);
    const auto* rows = this->rows_of_warp(c, tile, depth);
    for (int k = 0; k < depth; k += 8) {
      Parts<4> a[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        const float* from = rows + (m * 16 + at.group) * stride + k + at.quad;
        const float x[4] = {from[0], from[8 * stride], from[4], from[8 * stride + 4]};
        a[m] = Parts<4>(x);
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        const float* from = cols + (n * 8 + at.group) * stride + k + at.quad;
        const float b[2] = {from[0], from[4]};
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) product(c[m][n], a[m], b);
      }
    }
  }

  /// The sum over columns is taken in the order 0 2 4 6 1 3 5 7 within a tile of 8, which makes the
  /// accumulator of `logits` an A fragment as it stands.
  template <int kRowTiles, int kDepthTiles>
  LAPAROFLOW_DEVICE void gradient(float (&g)[kRowTiles][kDepthTiles][4], const float (&p)[kRowTiles][kColumnTiles][4],
                                  const float* cols, int depth) const {
    const Lane at;
    const int stride = this->stride(depth);
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      Parts<4> a[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        const float x[4] = {p[m][n][0], p[m][n][2], p[m][n][1], p[m][n][3]};
        a[m] = Parts<4>(x);
      }
      const float* from = cols + (n * 8 + 2 * at.quad) * stride + at.group;
#pragma unroll
      for (int d = 0; d < kDepthTiles; ++d) {
        if (d * 8 < depth) {
          const float b[2] = {from[d * 8], from[stride + d * 8]};
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) product(g[m][d], a[m], b);
        }
      }
    }
  }
};

}  // namespace laparoflow::cuda
