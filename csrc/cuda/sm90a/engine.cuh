// Tile products by the warpgroup instructions of sm_90a (16-bit types).
//
// A warpgroup of 4 warps owns 64 rows; a thread's accumulators are those of EngineHalf with one row tile. A tile is an
// image of 64 rows for every 64 of the depth, in 128-byte swizzle: one image serves the logits (k along d), and the
// gradient (k along the rows). Threads: the computing warpgroups first, then one that feeds them.
#pragma once

#include "../common/backward.cuh"
#include "factors.cuh"
#include "instructions.cuh"

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
  static constexpr int kFewestWarps = 4, kFewestStages = 2;
  static constexpr bool kWarpgroups = true;
  // All exponentials on the exp unit: instructions bound these kernels more than that unit does (measured on an H200).
  static constexpr int kPolynomialShare = 0;
  static constexpr int kFactorBytes = laparoflow::cuda::kFactorBytes;
  // Registers: what the computing warpgroups and the producer have is all that a multiprocessor has. A block starts with as
  // many for each thread as its launch bounds allow, and they only move within it.
  // The forward: four warpgroups in the default form with positives outside (`plain`), else three, who have more registers.
  static constexpr int forward_warps(bool plain) { return plain ? 16 : 12; }
  static constexpr int forward_threads(bool plain) { return forward_warps(plain) * 32 + 128; }
  static constexpr int forward_registers(bool plain) { return plain ? 112 : 160; }
  static constexpr int kForwardFeedRegisters = 32;
  // The backward: three warpgroups where the gradient of 64 rows takes 32 registers, else two.
  static constexpr bool three_groups(int depth_tiles) { return depth_tiles <= 8; }
  /// 64s of rows that a warpgroup owns in the backward. Two where the sums of dcolumn in memory are the bound, which are
  /// added to once for every row tile, and the registers last: one pass over rows' terms alone, positives outside
  /// (`plain`).
  static constexpr int row_images(int depth_tiles, bool plain) { return plain && depth_tiles == 16 ? 2 : 1; }
  static constexpr int backward_warps(int depth_tiles) { return three_groups(depth_tiles) ? 12 : 8; }
  static constexpr int backward_threads(int depth_tiles) { return backward_warps(depth_tiles) * 32 + 128; }
  static constexpr int backward_registers(int depth_tiles) { return three_groups(depth_tiles) ? 160 : 240; }
  static constexpr int backward_feed_registers(int depth_tiles) { return three_groups(depth_tiles) ? 32 : 24; }
  static_assert(registers_suffice(forward_warps(true), forward_registers(true), kForwardFeedRegisters));
  static_assert(registers_suffice(forward_warps(false), forward_registers(false), kForwardFeedRegisters));
  static_assert(registers_suffice(backward_warps(8), backward_registers(8), backward_feed_registers(8)));
  static_assert(registers_suffice(backward_warps(16), backward_registers(16), backward_feed_registers(16)));

  LAPAROFLOW_HOST_DEVICE static int tile_bytes(int rows, int depth) { return rows * depth * 2; }
  LAPAROFLOW_HOST_DEVICE static int tile_offset(int row, int d, int rows) {
    return swizzled(d / 64 * rows * kSwizzleRow + row * kSwizzleRow + d % 64 * 2) / 2;
  }

  /// 64 rows of a warpgroup as operands.
  struct RowOperands {
    Operand embedding;
    PlainOperand factors;
    template <class Rows>
    LAPAROFLOW_DEVICE explicit RowOperands(const Rows& rows)
        : embedding(swizzled_operand(same_in_warp(shared_address(rows.embedding)))),
          factors(plain_operand(same_in_warp(shared_address(rows.factors)))) {}
    LAPAROFLOW_DEVICE RowOperands(Operand embedding_, PlainOperand factors_) : embedding(embedding_), factors(factors_) {}
    LAPAROFLOW_DEVICE RowOperands further(int bytes) const { return {embedding.further(bytes), factors.further(bytes)}; }
  };

  // Products are started here, between the caller's fence and its commit.

  /// Logits; `kImages` are the 64s of the depth: through a loop of a length known at run time the compiler does not follow
  /// accumulators (C7519). What lies behind the depth is zero.
  template <int kImages, class Stage>
  LAPAROFLOW_DEVICE static void begin_logits(float (&c)[kColumnTiles][4], const RowOperands& rows, const Stage& stage) {
    constexpr int kStep = 32, kImage = kColumns * kSwizzleRow;  // added to the descriptors' addresses
    const Operand a = rows.embedding, b = swizzled_operand(same_in_warp(shared_address(stage.embedding)));
    warpgroup_multiply(c, a, b, T{});
#pragma unroll
    for (int k = 1; k < 4 * kImages; ++k) {
      const int step = k / 4 * kImage + k % 4 * kStep;
      warpgroup_multiply_add(c, a.further(step), b.further(step), T{});
    }
  }

  /// The logarithms of the weights from the factors of both tiles.
  template <class Stage>
  LAPAROFLOW_DEVICE static void begin_log2_weights(float (&log2_weights)[kColumnTiles][4], const RowOperands& rows,
                                                   const Stage& stage) {
    warpgroup_multiply(log2_weights, rows.factors, plain_operand(same_in_warp(shared_address(stage.factors))), Half{});
  }

  /// dS, rounded, as operands of products: those of columns 16 i .. 16 i + 15.
  LAPAROFLOW_DEVICE static void pack_scores(std::uint32_t (&ds)[kColumnTiles / 2][4], const float (&p)[kColumnTiles][4]) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r) ds[n / 2][n % 2 * 2 + r] = pack_operands(p[n][2 * r], p[n][2 * r + 1], T{});
  }

  /// g += dS k.
  template <int kDepthTiles>
  LAPAROFLOW_DEVICE static void begin_gradient(float (&g)[kDepthTiles][4], const std::uint32_t (&ds)[kColumnTiles / 2][4],
                                               const T* cols) {
    const Operand b = swizzled_operand(same_in_warp(shared_address(cols)));
#pragma unroll
    for (int d = 0; d < kDepthTiles; d += 8)
#pragma unroll
      for (int i = 0; i < kColumnTiles / 2; ++i)
        warpgroup_multiply_add(reinterpret_cast<float (&)[8][4]>(g[d]), ds[i],
                               b.further((d / 8 * kColumns + i * 16) * kSwizzleRow), T{});
  }

  // One pass for both gradients: dS of each warpgroup, rounded, as an image of its 64 rows; the columns' gradient is
  // the product of these images, both with k along their rows.
  static constexpr int kOnePassDepth = 128;
  static constexpr int kScoreBuffers = 2;
  LAPAROFLOW_HOST_DEVICE static int scores_bytes(int rows) { return rows * kSwizzleRow; }

  LAPAROFLOW_DEVICE static void store_scores(char* scores, Lane at, const std::uint32_t (&ds)[kColumnTiles / 2][4]) {
    // A lane's row of four matrices: rows 0..7, 8..15, and the same of the next 8 columns. `scores` is where the warp's 16
    // rows are, a multiple of 1024, so its sum with the offset is swizzled as the offset is.
    const std::uint32_t first = shared_address(scores) + swizzled(at.lane % 16 * kSwizzleRow + at.lane / 16 * 16);
#pragma unroll
    for (int i = 0; i < kColumnTiles / 2; ++i) store_matrices(first ^ i * 32, ds[i]);
    publish_shared_writes();
  }

  /// Adds this warpgroup's part of dcolumn = dS^T q of a tile to the sums: pieces of 64 of the depth are dealt out to the
  /// warpgroups in `turn`, which is kept for the next tile. `scores` holds dS once `full` is past `phase`; `rows` is the
  /// first of the block's 64s of rows, `row_pitch` the bytes from one to the next, and `kImages` of them are a warpgroup's.
  /// Their number is a constant, so that all products are written out: through a loop over them the compiler does not follow
  /// the accumulators (C7519). A plan with fewer warps than `backward_warps` takes two passes in place of this.
  template <int kDepthTiles, int kImages>
  LAPAROFLOW_DEVICE static void column_gradient(const char* scores, Barrier* full, unsigned phase, const T* rows,
                                                int row_pitch, int& turn, int depth, const ColumnSums& sums,
                                                std::int64_t slot) {
    constexpr int kStep = 16 * kSwizzleRow, kGroups = backward_warps(kDepthTiles) / 4;
    const int thread = thread_index_again(), mine = static_cast<int>(same_in_warp(thread / 128));
#pragma unroll 1
    for (int piece = 0; piece < kDepthTiles / 8; ++piece) {
      const bool my_turn = turn == mine;
      if (++turn == kGroups) turn = 0;
      if (!my_turn) continue;
      barrier_wait(full, phase);
      Operand a = swizzled_operand(same_in_warp(shared_address(scores)));
      Operand b = swizzled_operand(same_in_warp(shared_address(rows))).further(piece * kColumns * kSwizzleRow);
      float h[8][4];
      warpgroup_fence();
      warpgroup_multiply_rows(h, a, b, T{});
#pragma unroll
      for (int i = 1; i < kGroups * kImages * 4; ++i) {
        if (i % 4 == 0) b = b.further(row_pitch);
        warpgroup_multiply_add_rows(h, a.further(i * kStep), b.further(i % 4 * kStep), T{});
      }
      warpgroup_commit();
      warpgroup_wait();
      hold_accumulators(h);
      float* to = sums.fragments(slot, thread % 128 / 32 * 16) + ColumnSums::place(Lane(thread).lane, 0);
#pragma unroll
      for (int d = 0; d < 8; ++d)
        if (piece * 64 + d * 8 < depth) add_to_global(to + (piece * 8 + d) * 128, h[d]);
    }
  }
};

}  // namespace laparoflow::cuda
