// The row-block engine compiled for any processor, in vectors of 16 bytes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "engine.h"

#define LF_VECTOR_BYTES 16
#define LF_TILE_ROWS 4
#define LF_TILE_VECTORS 2
#include "block.h"

namespace laparoflow::cpu {
template <class T>
const Engine<T>* portable_engine() {
  static const Engine<T> engine = make_engine<T>();
  return &engine;
}
}  // namespace laparoflow::cpu

template const laparoflow::cpu::Engine<float>* laparoflow::cpu::portable_engine<float>();
template const laparoflow::cpu::Engine<double>* laparoflow::cpu::portable_engine<double>();
