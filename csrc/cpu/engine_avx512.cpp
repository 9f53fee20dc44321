// The row-block engine compiled for AVX-512.
#if defined(__x86_64__)
#include <immintrin.h>

#include "engine.h"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif
#define LF_ENGINE avx512_engine
#define LF_HAS_BF16
#define LF_VECTOR_BYTES 64
#define LF_TILE_ROWS 6
#define LF_TILE_VECTORS 4
#include "block.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
