// The three products in bfloat16 pairs, where the processor multiplies them (AVX512_BF16): twice the rate of float32.
//
// One instruction adds a[2p] b[2p] + a[2p + 1] b[2p + 1] in float32, so both factors come as pairs along the summed index:
//     S[j, i]  = sum over pairs of d   A: key rows as they are           B: query pairs [D / 2, kRows]
//     dq[i, d] = sum over pairs of j   A: dS pairs of keys [C / 2, kRows]  B: key pairs [C / 2, D]
//     dk[j, d] = sum over pairs of i   A: dS rows rounded to bfloat16    B: query pairs [kRows / 2, D]
// dS = p - w / W is subtracted in float32 and rounded once, here.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "gemm.h"

namespace {

#define LF_BF16_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")))

// A in numbers or in pairs of them, B in pairs; B and C in vectors of 16.
struct PairTile {
  static constexpr int lanes = 16;

  template <int ROWS, int VECTORS, class A>
  LF_BF16_TARGET static void run(int64_t depth, const A* a, int64_t a_row, int64_t a_depth, const int32_t* b, int64_t ldb,
                                 float* c, int64_t ldc, Into into, Upcoming& next) {
    __m512 acc[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) {
        acc[i][v] = _mm512_setzero_ps();
        if (into == Into::kAddFar) __builtin_prefetch(c + i * ldc + v * 16, 1);
      }
    for (int64_t p = 0; p < depth; ++p) {
      next.ask();
      __m512i row[VECTORS];
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) row[v] = _mm512_loadu_si512(b + p * ldb + v * 16);
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) {
        int32_t pair;
        std::memcpy(&pair, a + i * a_row + p * a_depth, sizeof(pair));
        const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) acc[i][v] = _mm512_dpbf16_ps(acc[i][v], x, (__m512bh)row[v]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) {
        float* out = c + i * ldc + v * 16;
        _mm512_storeu_ps(out, into == Into::kSet ? acc[i][v] : _mm512_add_ps(_mm512_loadu_ps(out), acc[i][v]));
      }
  }
};

// Two rows of n bfloat16 numbers as pairs (low, high); n a multiple of 16, `high` null for a row of zeros.
LF_BF16_TARGET void bf16_interleave(const uint16_t* low, const uint16_t* high, int64_t n, int32_t* out) {
  for (int64_t d = 0; d < n; d += 16) {
    __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low + d)));
    if (high) {
      const __m512i y = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(high + d)));
      x = _mm512_or_si512(x, _mm512_slli_epi32(y, 16));
    }
    _mm512_storeu_si512(out + d, x);
  }
}

LF_BF16_TARGET void bf16_round(const float* x, int64_t n, uint16_t* out) {
  for (int64_t d = 0; d < n; d += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + d), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + d)));
}

}  // namespace
