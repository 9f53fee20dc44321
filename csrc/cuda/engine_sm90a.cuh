// Tile products by the warpgroup instructions of sm_90a (16-bit types), for the same kernels as sm_80.
//
// A warpgroup of 4 warps owns 64 rows; a thread's accumulators are those of EngineHalf with one row tile. A tile is an
// image of 64 rows for every 64 of the depth, in 128-byte swizzle: one image serves the logits (k along d), and the
// gradient (k along the rows). Threads: the computing warpgroups first, then one that feeds them.
#pragma once

#include "engines_sm80.cuh"
#include "instructions_sm90a.cuh"

namespace laparoflow::cuda {

/// Whether computing warps of `each` registers a thread and a feeding warpgroup of `feed` get by with what the block has.
constexpr bool registers_suffice(int warps, int each, int feed) {
  const int threads = warps * 32 + 128;
  return warps * 32 * each + 128 * feed <= threads * (65536 / threads / 8 * 8);
}

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
  // Registers: 3 warpgroups of 160 and one of 32, or 2 of 240 and one of 24, are all that a multiprocessor has. A block
  // starts with as many for each thread as its launch bounds allow, and they only move within it.
  static constexpr int kForwardWarps = 12, kForwardThreads = 512, kForwardBlocks = 1;
  static constexpr int kForwardRegisters = 160, kForwardFeedRegisters = 32;
  static constexpr int kBackwardRegisters = 240, kBackwardFeedRegisters = 24;
  static constexpr int kBackwardWarps = 8, kBackwardThreads = 384;
  static constexpr int backward_threads(int) { return kBackwardThreads; }
  static constexpr int backward_blocks(int) { return 1; }
  static constexpr int backward_warps(int) { return kBackwardWarps; }
  static_assert(registers_suffice(kForwardWarps, kForwardRegisters, kForwardFeedRegisters));
  static_assert(registers_suffice(kBackwardWarps, kBackwardRegisters, kBackwardFeedRegisters));
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
    constexpr int kStep = 32, kImage = kColumns * kSwizzleRow;
    Operand a = swizzled_operand(same_in_warp(shared_address(rows)));
    Operand b = swizzled_operand(same_in_warp(shared_address(cols)));
    warpgroup_fence();
    warpgroup_multiply(c[0], a, b, T{});
#pragma unroll
    for (int k = 1; k < 4; ++k) warpgroup_multiply_add(c[0], a.further(k * kStep), b.further(k * kStep), T{});
#pragma unroll 1
    for (int d = 64; d < depth; d += 64) {
      a = a.further(kImage);
      b = b.further(kImage);
#pragma unroll
      for (int k = 0; k < 4; ++k) warpgroup_multiply_add(c[0], a.further(k * kStep), b.further(k * kStep), T{});
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
      a[n / 2][0] = pack_operands(p[0][n][0], p[0][n][1], T{});
      a[n / 2][1] = pack_operands(p[0][n][2], p[0][n][3], T{});
      a[n / 2][2] = pack_operands(p[0][n + 1][0], p[0][n + 1][1], T{});
      a[n / 2][3] = pack_operands(p[0][n + 1][2], p[0][n + 1][3], T{});
    }
    const Operand b = swizzled_operand(same_in_warp(shared_address(cols)));
    hold_accumulators(g[0]);
    warpgroup_fence();
#pragma unroll
    for (int d = 0; d < kDepthTiles; d += 8)  // without a test for the depth, which would make the products wait
#pragma unroll
      for (int n = 0; n < kColumnTiles; n += 2)
        warpgroup_multiply_add(reinterpret_cast<float (&)[8][4]>(g[0][d]), a[n / 2],
                               b.further((d / 8 * kColumns + n * 8) * kSwizzleRow), T{});
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
    const Lane at;  // the two rows are at.group of their groups of 8
    const int first = swizzled((thread_index() / 32 * 16 + at.group) * kSwizzleRow + at.quad * 4);
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        store_for_products(scores + (first ^ n * 16) + r * kSwizzleGroup,
                           pack_operands(p[0][n][2 * r], p[0][n][2 * r + 1], T{}));
    publish_shared_writes();
  }

  /// As in EngineHalf; pieces of 64 of the depth are dealt out to the warpgroups, from another one each `tile`. `rows`
  /// is the first warpgroup's tile, `row_pitch` the bytes from one warpgroup's tile to the next.
  LAPAROFLOW_DEVICE void column_gradient(const char* scores, const T* rows, int row_pitch, int warps, int depth, int tile,
                                         const ColumnSums& sums, std::int64_t slot) const {
    constexpr int kStep = 16 * kSwizzleRow;
    const int groups = warps / 4;  // 1 or 2
    const Operand a = swizzled_operand(same_in_warp(shared_address(scores)));
    const Operand first = swizzled_operand(same_in_warp(shared_address(rows)));
    float* to = sums.fragments(slot, thread_index() % 128 / 32 * 16) + ColumnSums::place(Lane().lane, 0);
    const int mine = groups == 1 ? 0 : static_cast<int>(same_in_warp(thread_index() / 128)) ^ (tile & 1);
#pragma unroll 1
    for (int piece = mine; piece * 64 < depth; piece += groups) {
      const Operand b = first.further(piece * kColumns * kSwizzleRow);
      float h[8][4];
      warpgroup_fence();
      warpgroup_multiply_rows(h, a, b, T{});
#pragma unroll
      for (int i = 1; i < 4; ++i) warpgroup_multiply_add_rows(h, a.further(i * kStep), b.further(i * kStep), T{});
      if (groups > 1)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          warpgroup_multiply_add_rows(h, a.further((4 + i) * kStep), b.further(row_pitch + i * kStep), T{});
      warpgroup_commit();
      warpgroup_wait();
      hold_accumulators(h);
#pragma unroll
      for (int d = 0; d < 8; ++d)
        if (piece * 64 + d * 8 < depth) add_to_global(to + (piece * 8 + d) * 128, h[d]);
    }
  }
};

}  // namespace laparoflow::cuda
