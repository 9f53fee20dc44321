// Tile products by the warpgroup instructions of sm_90a (16-bit types), for the same kernels as sm_80.
//
// A warpgroup of 4 warps owns 64 rows of the block's row tile; a thread's accumulators are those of EngineHalf with one
// row tile. Tiles lie in shared memory as columns of 16-byte pieces: piece (row, d / 8) is at
// (d / 8) * (16 rows + 16) + 16 row, so 8 rows x 16 bytes form a core matrix for either product (k along d for the
// logits, k along the rows for the gradient) and the 8 threads that copy a row hit different banks.
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

  LAPAROFLOW_HOST_DEVICE static int piece_bytes(int rows) { return rows * 16 + 16; }
  LAPAROFLOW_HOST_DEVICE static int tile_bytes(int rows, int depth) { return depth / 8 * piece_bytes(rows); }
  LAPAROFLOW_HOST_DEVICE static int tile_offset(int row, int d, int rows, int depth) {
    (void)depth;
    return d / 8 * (piece_bytes(rows) / 2) + row * 8 + d % 8;
  }
  LAPAROFLOW_DEVICE static void publish() { publish_shared_writes(); }

  bool full_float;  // unused

  template <int kRowTiles>
  LAPAROFLOW_DEVICE void logits(float (&c)[kRowTiles][kColumnTiles][4], const T* tile, int rows, const T* cols,
                                int depth) const {
    static_assert(kRowTiles == 1, "a warp owns 16 rows");
    const std::uint32_t a = shared_address(tile) + thread_index() / 128 * 64 * 16, b = shared_address(cols);
    warpgroup_fence();
    for (int k = 0; k < depth / 8; k += 2)
      warpgroup_multiply(c[0], core_matrices(a + k * piece_bytes(rows), piece_bytes(rows), 128),
                         core_matrices(b + k * piece_bytes(kColumns), piece_bytes(kColumns), 128), k > 0, T{});
    warpgroup_commit();
    warpgroup_wait();
  }

  template <int kRowTiles, int kDepthTiles>
  LAPAROFLOW_DEVICE void gradient(float (&g)[kRowTiles][kDepthTiles][4], const float (&p)[kRowTiles][kColumnTiles][4],
                                  const T* cols, int depth) const {
    std::uint32_t a[kColumnTiles / 2][4];
#pragma unroll
    for (int n = 0; n < kColumnTiles; n += 2) {
      a[n / 2][0] = pack_pair(p[0][n][0], p[0][n][1], T{});
      a[n / 2][1] = pack_pair(p[0][n][2], p[0][n][3], T{});
      a[n / 2][2] = pack_pair(p[0][n + 1][0], p[0][n + 1][1], T{});
      a[n / 2][3] = pack_pair(p[0][n + 1][2], p[0][n + 1][3], T{});
    }
    const std::uint32_t b = shared_address(cols);
#pragma unroll
    for (int d = 0; d < kDepthTiles; d += 8) {
      if (d * 8 < depth) {
        warpgroup_fence();
#pragma unroll
        for (int n = 0; n < kColumnTiles; n += 2)
          warpgroup_multiply_add(reinterpret_cast<float(&)[8][4]>(g[0][d]), a[n / 2],
                                 core_matrices(b + d * piece_bytes(kColumns) + n * 128, 128, piece_bytes(kColumns)), T{});
      }
    }
    warpgroup_commit();
    warpgroup_wait();
  }
};

}  // namespace laparoflow::cuda
