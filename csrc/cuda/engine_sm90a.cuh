// Tile products by the warpgroup instructions of sm_90a (16-bit types), for the same kernels as sm_80.
//
// A warpgroup of 4 warps owns 64 rows; a thread's accumulators are those of EngineHalf with one row tile. A tile is an
// image of 64 rows for every 64 of the depth, in 128-byte swizzle: one image serves the logits (k along d), and the
// gradient (k along the rows). Threads: the computing warpgroups first, then one that feeds them.
#pragma once

#include "engines_sm80.cuh"
#include "instructions_sm90a.cuh"

namespace laparoflow::cuda {

template <class T>
struct EngineWarpgroup {
  using Type = T;
  static constexpr bool kCompiled = kHasWarpgroupProducts;
  static constexpr int kColumns = 64;
  static constexpr int kColumnTiles = kColumns / 8;
  static constexpr int kVector = 8;
  static constexpr int kDepthStep = 64;
  static constexpr int kForwardRowTiles = 1;
  static constexpr int kFewestWarps = 4;
  // Registers: 3 warpgroups of 160 and one of 32, or 2 of 240 and one of 24, are all that a multiprocessor has.
  static constexpr int kForwardWarps = 12, kForwardThreads = 512, kForwardBlocks = 1;
  static constexpr int kForwardRegisters = 160, kForwardFeedRegisters = 32;
  static constexpr int kBackwardRegisters = 240, kBackwardFeedRegisters = 24;
  static constexpr int backward_threads(int) { return 384; }
  static constexpr int backward_blocks(int) { return 1; }
  static constexpr int backward_warps(int) { return 8; }
  static constexpr int kDepthSteps = 4;  // the backward is compiled for depths of 64, 128, 192, 256

  LAPAROFLOW_HOST_DEVICE static int tile_bytes(int rows, int depth) { return rows * depth * 2; }
  LAPAROFLOW_HOST_DEVICE static int tile_offset(int row, int d, int rows, int depth) {
    (void)depth;
    return swizzled(d / 64 * rows * kSwizzleRow + row * kSwizzleRow + d % 64 * 2) / 2;
  }

  bool full_float;  // unused

  template <int kRowTiles>
  LAPAROFLOW_DEVICE void logits(float (&c)[kRowTiles][kColumnTiles][4], const T* rows, const T* cols, int depth) const {
    static_assert(kRowTiles == 1, "a warp owns 16 rows");
    // Whole images of 64: what lies behind the depth is zero. Steps are added to the descriptors' addresses.
    constexpr int kStep = 32 >> 4, kImage = kColumns * kSwizzleRow >> 4;
    std::uint64_t a = swizzled_operand(shared_address(rows)), b = swizzled_operand(shared_address(cols));
    warpgroup_fence();
    warpgroup_multiply(c[0], a, b, T{});
#pragma unroll
    for (int k = 1; k < 4; ++k) warpgroup_multiply_add(c[0], a + k * kStep, b + k * kStep, T{});
    for (int d = 64; d < depth; d += 64) {
      a += kImage;
      b += kImage;
#pragma unroll
      for (int k = 0; k < 4; ++k) warpgroup_multiply_add(c[0], a + k * kStep, b + k * kStep, T{});
    }
    warpgroup_commit();
    warpgroup_wait();
    hold_accumulators(c[0]);
  }

  template <int kRowTiles, int kDepthTiles>
  LAPAROFLOW_DEVICE void gradient(float (&g)[kRowTiles][kDepthTiles][4], const float (&p)[kRowTiles][kColumnTiles][4],
                                  const T* cols, int) const {
    std::uint32_t a[kColumnTiles / 2][4];
#pragma unroll
    for (int n = 0; n < kColumnTiles; n += 2) {
      a[n / 2][0] = pack_pair(p[0][n][0], p[0][n][1], T{});
      a[n / 2][1] = pack_pair(p[0][n][2], p[0][n][3], T{});
      a[n / 2][2] = pack_pair(p[0][n + 1][0], p[0][n + 1][1], T{});
      a[n / 2][3] = pack_pair(p[0][n + 1][2], p[0][n + 1][3], T{});
    }
    const std::uint32_t b = shared_address(cols);
    hold_accumulators(g[0]);
    warpgroup_fence();
#pragma unroll
    for (int d = 0; d < kDepthTiles; d += 8)  // without a test for the depth, which would make the products wait
#pragma unroll
      for (int n = 0; n < kColumnTiles; n += 2)
        warpgroup_multiply_add(reinterpret_cast<float (&)[8][4]>(g[0][d]), a[n / 2],
                               swizzled_operand(b + (d / 8 * kColumns + n * 8) * kSwizzleRow), T{});
    warpgroup_commit();
    warpgroup_wait();
    hold_accumulators(g[0]);
  }

  // One pass for both gradients: dS of each warpgroup, rounded, as an image of its 64 rows; the columns' gradient is
  // the product of these images, both with k along their rows. Two buffers, so that one barrier a tile is enough.
  static constexpr int kOnePassDepth = 128;
  static constexpr int kScoreBuffers = 2;
  LAPAROFLOW_HOST_DEVICE static int scores_bytes(int rows) { return rows * kSwizzleRow; }

  template <int kRowTiles>
  LAPAROFLOW_DEVICE void store_scores(char* scores, const float (&p)[kRowTiles][kColumnTiles][4]) const {
    const Lane at;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = thread_index() / 32 * 16 + at.group + r * 8;
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
        store_for_products(scores + swizzled(row * kSwizzleRow + n * 16 + at.quad * 4),
                           pack_pair(p[0][n][2 * r], p[0][n][2 * r + 1], T{}));
    }
    publish_shared_writes();
  }

  /// As in EngineHalf; pieces of 64 of the depth are dealt out to the warpgroups, from another one each `tile`. `rows`
  /// is the first warpgroup's tile, `row_pitch` the bytes from one warpgroup's tile to the next.
  template <class Sums>
  LAPAROFLOW_DEVICE void column_gradient(const char* scores, const T* rows, int row_pitch, int warps, int depth, int tile,
                                         Sums sums_of) const {
    const Lane at;
    const int groups = warps / 4, pieces = (depth + 63) / 64;
#pragma unroll 1
    for (int piece = 0; piece < pieces; ++piece) {
      if ((piece + tile) % groups != thread_index() / 128) continue;
      const std::uint32_t a = shared_address(scores), b = shared_address(rows) + piece * kColumns * kSwizzleRow;
      float h[8][4];
#pragma unroll
      for (int d = 0; d < 8; ++d)
#pragma unroll
        for (int e = 0; e < 4; ++e) h[d][e] = 0.0f;
      hold_accumulators(h);
      warpgroup_fence();
      for (int group = 0; group < groups; ++group)
#pragma unroll
        for (int i = 0; i < 64; i += 16)
          warpgroup_multiply_add_rows(h, swizzled_operand(a + (group * 64 + i) * kSwizzleRow),
                                      swizzled_operand(b + group * row_pitch + i * kSwizzleRow), T{});
      warpgroup_commit();
      warpgroup_wait();
      hold_accumulators(h);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float* to = sums_of(thread_index() % 128 / 32 * 16 + at.group + r * 8);
        if (to == nullptr) continue;
        to += piece * 64 + 2 * at.quad;
#pragma unroll
        for (int d = 0; d < 8; ++d)
          if (piece * 64 + d * 8 < depth) add_to_global(to + d * 8, h[d][2 * r], h[d][2 * r + 1]);
      }
    }
  }
};

}  // namespace laparoflow::cuda
