// The row-block engine compiled for AVX2 with FMA.
#if defined(__x86_64__)
#include "engine.h"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define LF_ENGINE avx2_engine
#define LF_VECTOR_BYTES 32
#define LF_TILE_ROWS 6
#define LF_TILE_VECTORS 2
#include "block.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
