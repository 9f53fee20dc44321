// Rows of any element type as rows of the accumulator type. Internal linkage: units of several instruction sets include
// this.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine.h"

namespace {

inline float bits_to_float(std::uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
inline float bfloat16_to_float(std::uint16_t x) { return bits_to_float(std::uint32_t(x) << 16); }
inline float half_to_float(std::uint16_t x) {
  // exponent and mantissa moved into place, then scaled by 2^(127 - 15): right for normals and subnormals alike
  const std::uint32_t sign = std::uint32_t(x & 0x8000) << 16, rest = std::uint32_t(x & 0x7fff) << 13;
  const float scaled = bits_to_float(rest) * 0x1p112f;
  std::uint32_t bits;
  std::memcpy(&bits, &scaled, 4);
  if ((x & 0x7c00) == 0x7c00) bits = rest | 0x7f800000;  // infinity, NaN
  return bits_to_float(sign | bits);
}

/// out[0, n) from data[offset, offset + n)
template <class T>
void convert_row(const void* data, laparoflow::cpu::Element element, std::int64_t offset, std::int64_t n, T* out) {
  using laparoflow::cpu::Element;
  switch (element) {
    case Element::kFloat:
      for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<const float*>(data)[offset + i];
      break;
    case Element::kDouble:
      for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(static_cast<const double*>(data)[offset + i]);
      break;
    case Element::kBFloat16:
      for (std::int64_t i = 0; i < n; ++i) out[i] = bfloat16_to_float(static_cast<const std::uint16_t*>(data)[offset + i]);
      break;
    case Element::kHalf:
      for (std::int64_t i = 0; i < n; ++i) out[i] = half_to_float(static_cast<const std::uint16_t*>(data)[offset + i]);
      break;
  }
}

}  // namespace
