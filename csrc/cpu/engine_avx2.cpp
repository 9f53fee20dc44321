// The row-block engine compiled for AVX2 with FMA.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "engine.h"

#if defined(__x86_64__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define LF_VECTOR_BYTES 32
#define LF_TILE_ROWS 6
#define LF_TILE_VECTORS 2
#include "block.h"

namespace laparoflow::cpu {
template <class T>
const Engine<T>* avx2_engine() {
  static const Engine<T> engine = make_engine<T>();
  return &engine;
}
}  // namespace laparoflow::cpu
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
namespace laparoflow::cpu {
template <class T>
const Engine<T>* avx2_engine() {
  return nullptr;
}
}  // namespace laparoflow::cpu
#endif

template const laparoflow::cpu::Engine<float>* laparoflow::cpu::avx2_engine<float>();
template const laparoflow::cpu::Engine<double>* laparoflow::cpu::avx2_engine<double>();
