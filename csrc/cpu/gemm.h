// Small products on tiles that live in the cache: C[i, :] (+)= sum_p A(i, p) B[p, :].
//
// A is addressed by two strides (one serves q.k^T, dS k and dS^T q alike) and broadcast; B and C rows are vectors.
// LF_TILE_ROWS x LF_TILE_VECTORS accumulators stay in registers.
#pragma once

#include "vec.h"

namespace {

// What becomes of C. kAddFar: C is too large for the near caches, so its tile is asked for before the product is made.
enum class Into { kSet, kAdd, kAddFar };

// Memory that the next product reads: asked for a line at a time, between the steps of this one.
struct Upcoming {
  const char *line = nullptr, *end = nullptr;

  Upcoming() = default;
  Upcoming(const char* begin, int64_t bytes) : line(begin), end(begin + bytes) {}
  LF_INLINE void ask() {
    if (line >= end) return;
    __builtin_prefetch(line, 0, 2);
    line += 64;
  }
};

// Products and sums in vectors of T.
template <class T>
struct VectorTile {
  static constexpr int lanes = kLanes<T>;

  template <int ROWS, int VECTORS>
  LF_INLINE static void run(int64_t depth, const T* a, int64_t a_row, int64_t a_depth, const T* b, int64_t ldb, T* c,
                            int64_t ldc, Into into, Upcoming& next) {
    Vec<T> acc[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
      for (int v = 0; v < VECTORS; ++v) {
        acc[i][v] = Vec<T>{};
        if (into == Into::kAddFar) __builtin_prefetch(c + i * ldc + v * lanes, 1);
      }
    for (int64_t p = 0; p < depth; ++p) {
      next.ask();
      Vec<T> row[VECTORS];
      for (int v = 0; v < VECTORS; ++v) row[v] = load<T>(b + p * ldb + v * lanes);
      for (int i = 0; i < ROWS; ++i) {
        Vec<T> x = splat<T>(a[i * a_row + p * a_depth]);
        for (int v = 0; v < VECTORS; ++v) acc[i][v] += x * row[v];
      }
    }
    for (int i = 0; i < ROWS; ++i)
      for (int v = 0; v < VECTORS; ++v) {
        T* out = c + i * ldc + v * lanes;
        store<T>(out, into == Into::kSet ? acc[i][v] : load<T>(out) + acc[i][v]);
      }
  }
};

template <class Tile, int VECTORS, class A, class B, class C>
void gemm_panel(int64_t rows, int64_t depth, const A* a, int64_t a_row, int64_t a_depth, const B* b, int64_t ldb, C* c,
                int64_t ldc, Into into, Upcoming& next) {
  int64_t i = 0;
  for (; i + LF_TILE_ROWS <= rows; i += LF_TILE_ROWS)
    Tile::template run<LF_TILE_ROWS, VECTORS>(depth, a + i * a_row, a_row, a_depth, b, ldb, c + i * ldc, ldc, into, next);
  for (; i + 2 <= rows; i += 2)
    Tile::template run<2, VECTORS>(depth, a + i * a_row, a_row, a_depth, b, ldb, c + i * ldc, ldc, into, next);
  if (i < rows) Tile::template run<1, VECTORS>(depth, a + i * a_row, a_row, a_depth, b, ldb, c + i * ldc, ldc, into, next);
}

// columns: a multiple of the vector length
template <class Tile, class A, class B, class C>
void gemm(int64_t rows, int64_t columns, int64_t depth, const A* a, int64_t a_row, int64_t a_depth, const B* b, int64_t ldb,
          C* c, int64_t ldc, Into into, Upcoming next) {
  constexpr int64_t lanes = Tile::lanes;
  int64_t j = 0;
  for (; j + LF_TILE_VECTORS * lanes <= columns; j += LF_TILE_VECTORS * lanes)
    gemm_panel<Tile, LF_TILE_VECTORS>(rows, depth, a, a_row, a_depth, b + j, ldb, c + j, ldc, into, next);
  for (; j < columns; j += lanes) gemm_panel<Tile, 1>(rows, depth, a, a_row, a_depth, b + j, ldb, c + j, ldc, into, next);
}

}  // namespace
