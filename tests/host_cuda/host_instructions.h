// Host definitions of csrc/cuda/common/instructions.cuh and sm80/instructions.cuh by the PTX manual's rules.
// Collectives (shuffle, ldmatrix, mma) wait for all 32 lanes; cp.async moves its bytes only when it
// is waited for, so a missing wait shows; addresses are checked against the block's shared memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "host_platform.h"

namespace laparoflow::cuda {

struct BFloat16 {
  std::uint16_t bits;
};
struct Half {
  std::uint16_t bits;
};

namespace simulator {
float shuffle_xor(float value, int lane_mask);
void add_to_global(float* to, const float (&x)[4]);
void copy_async(void* shared, const void* global, bool valid);
void copy_async_commit();
void copy_async_wait(int pending);
void load_matrices(std::uint32_t (&r)[4], const void* row, bool transposed);
enum class MmaType : int { kBFloat16, kHalf, kTf32 };
void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, MmaType type);
std::uint32_t shared_address(const void* pointer);
std::uint16_t to_bfloat16(float x);
std::uint16_t to_half(float x);
float from_16_bits(std::uint16_t x, MmaType type);
}  // namespace simulator

struct DeviceMath {
  static constexpr float kSmallest = 1.17549435e-38f;  // 2^-126
  static std::uint32_t to_bits(float x) {
    std::uint32_t y;
    std::memcpy(&y, &x, 4);
    return y;
  }
  static float from_bits(std::uint32_t x) {
    float y;
    std::memcpy(&y, &x, 4);
    return y;
  }
  static float flush(float x) { return std::fabs(x) < kSmallest ? 0.0f : x; }
  static float exp2(float x) { return flush(std::exp2(x)); }
  static float log2(float x) { return std::log2(flush(x)); }
  static float sqrt(float x) { return std::sqrt(x); }
  static float reciprocal(float x) { return 1.0f / x; }
  /// As the files are compiled, --ftz=true.
  static float fma(float a, float b, float c) { return flush(std::fma(flush(a), flush(b), flush(c))); }
  static float abs(float a) { return std::fabs(a); }
  static float max(float a, float b) { return std::fmax(a, b); }
  static float min(float a, float b) { return std::fmin(a, b); }
  static float fma_round_down(float a, float b, float c) {
    const double exact = static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c);
    const float y = static_cast<float>(exact);
    return static_cast<double>(y) > exact ? std::nextafter(y, -std::numeric_limits<float>::infinity()) : y;
  }
  /// The denormal result that the device leaves for its readers to flush is flushed here.
  static float scale_by_low_bits(float p, float shifted) { return flush(from_bits(to_bits(p) + (to_bits(shifted) << 23))); }
};

inline float accurate_log2(float x) { return std::log2(x); }
inline float accurate_exp2(float x) { return std::exp2(x); }
inline float shuffle_xor(float value, int lane_mask) { return simulator::shuffle_xor(value, lane_mask); }
inline int place_of_sum(int lane, int e) { return lane * 4 + e; }
inline void add_to_global(float* to, const float (&x)[4]) { simulator::add_to_global(to, x); }

inline void copy_async_16(void* shared, const void* global, bool valid) { simulator::copy_async(shared, global, valid); }
inline void copy_async_commit() { simulator::copy_async_commit(); }
template <int kPending>
inline void copy_async_wait() {
  simulator::copy_async_wait(kPending);
}

inline std::uint32_t shared_address(const void* pointer) { return simulator::shared_address(pointer); }
inline void load_matrices(std::uint32_t (&r)[4], std::uint32_t row) {
  simulator::load_matrices(r, simulator::shared + row, false);
}
inline void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row) {
  simulator::load_matrices(r, simulator::shared + row, true);
}

inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, BFloat16) {
  simulator::multiply_add(c, a, b0, b1, simulator::MmaType::kBFloat16);
}
inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, Half) {
  simulator::multiply_add(c, a, b0, b1, simulator::MmaType::kHalf);
}
inline void multiply_add_tf32(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  simulator::multiply_add(c, a, b0, b1, simulator::MmaType::kTf32);
}
/// Round to nearest, ties away from zero, keeping 10 bits of mantissa.
inline std::uint32_t round_to_tf32(float x) { return (DeviceMath::to_bits(x) + 0x1000u) & 0xffffe000u; }

inline std::uint32_t pack_pair(float low, float high, BFloat16) {
  return simulator::to_bfloat16(low) | static_cast<std::uint32_t>(simulator::to_bfloat16(high)) << 16;
}
inline std::uint32_t pack_pair(float low, float high, Half) {
  return simulator::to_half(low) | static_cast<std::uint32_t>(simulator::to_half(high)) << 16;
}

inline float half_to_float(std::uint32_t low_half) {
  return simulator::from_16_bits(static_cast<std::uint16_t>(low_half), simulator::MmaType::kHalf);
}

inline std::uint32_t pack_operands(float low, float high, BFloat16) { return pack_pair(low, high, BFloat16{}); }
inline std::uint32_t pack_operands(float low, float high, Half) {
  const auto finite = [](float x) { return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x; };
  return pack_pair(finite(low), finite(high), Half{});
}

}  // namespace laparoflow::cuda
