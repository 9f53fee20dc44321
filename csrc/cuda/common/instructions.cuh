// Machine instructions that all kernels use, each behind one function. Nothing here knows about the loss.
// The host definitions of the same functions are in tests/host_cuda/host_instructions.h.
#pragma once

#include "platform.cuh"

#if defined(LAPAROFLOW_HOST_EXECUTION)
#include "host_instructions.h"
#else

namespace laparoflow::cuda {

struct BFloat16 {
  std::uint16_t bits;
};
struct Half {
  std::uint16_t bits;
};

/// The arithmetic of `pair_math.h` on the device's own units.
struct DeviceMath {
#define LAPAROFLOW_APPROXIMATION(name, instruction)                \
  LAPAROFLOW_DEVICE static float name(float x) {                   \
    float y;                                                       \
    asm(instruction ".approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); \
    return y;                                                      \
  }
  LAPAROFLOW_APPROXIMATION(exp2, "ex2")
  LAPAROFLOW_APPROXIMATION(log2, "lg2")
  LAPAROFLOW_APPROXIMATION(sqrt, "sqrt")
  LAPAROFLOW_APPROXIMATION(reciprocal, "rcp")
  LAPAROFLOW_DEVICE static float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
  LAPAROFLOW_DEVICE static float fma_round_down(float a, float b, float c) { return __fmaf_rd(a, b, c); }
  LAPAROFLOW_DEVICE static float max(float a, float b) { return fmaxf(a, b); }
  LAPAROFLOW_DEVICE static float min(float a, float b) { return fminf(a, b); }
  /// p in [1, 2] times 2^n, n >= -127 in the low bits of `shifted`. A result below 2^-126 is left denormal: the files
  /// are compiled with --ftz=true, so that whatever reads it takes it as 0.
  LAPAROFLOW_DEVICE static float scale_by_low_bits(float p, float shifted) {
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
  }
  LAPAROFLOW_DEVICE static float abs(float a) { return fabsf(a); }
  LAPAROFLOW_DEVICE static std::uint32_t to_bits(float x) { return __float_as_uint(x); }
  LAPAROFLOW_DEVICE static float from_bits(std::uint32_t x) { return __uint_as_float(x); }
};

/// exp, log of a single number with full accuracy (used once per row, not per pair).
LAPAROFLOW_DEVICE float accurate_log2(float x) { return ::log2f(x); }
LAPAROFLOW_DEVICE float accurate_exp2(float x) { return ::exp2f(x); }

LAPAROFLOW_DEVICE float shuffle_xor(float value, int lane_mask) { return __shfl_xor_sync(0xffffffffu, value, lane_mask); }

LAPAROFLOW_DEVICE std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

#define LAPAROFLOW_16_BIT_INSTRUCTIONS(Type, name, finite)                                                             \
  /* Two floats rounded to nearest even; the first goes to the low half. */                                            \
  LAPAROFLOW_DEVICE std::uint32_t pack_pair(float low, float high, Type) {                                             \
    std::uint32_t y;                                                                                                   \
    asm("cvt.rn." name "x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));                                          \
    return y;                                                                                                          \
  }                                                                                                                    \
  /* The same for operands of products: what float16 cannot hold becomes its largest number, as infinity would make */ \
  /* NaN of the zeros that it meets. bfloat16 has the exponents of float32. */                                         \
  LAPAROFLOW_DEVICE std::uint32_t pack_operands(float low, float high, Type) {                                         \
    std::uint32_t y;                                                                                                   \
    asm("cvt.rn." finite name "x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));                                   \
    return y;                                                                                                          \
  }
LAPAROFLOW_16_BIT_INSTRUCTIONS(BFloat16, "bf16", "")
LAPAROFLOW_16_BIT_INSTRUCTIONS(Half, "f16", "satfinite.")
/// The float of the half in the low 16 bits.
LAPAROFLOW_DEVICE float half_to_float(std::uint32_t low_half) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(static_cast<std::uint16_t>(low_half)));
  return y;
}

/// Where number e of 4 of a lane stands among the 128 of a warp that `add_to_global` adds at once: as the instruction at
/// hand makes whole lines of them.
LAPAROFLOW_DEVICE int place_of_sum(int lane, int e) {
#if __CUDA_ARCH__ >= 900
  return lane * 4 + e;
#else
  return e * 32 + lane;
#endif
}
/// Adds 4 numbers of each lane to 128 in global memory, in no fixed order, without a result; `to` is
/// place_of_sum(lane, 0) of them, which begin at a multiple of 16 bytes.
LAPAROFLOW_DEVICE void add_to_global(float* to, const float (&x)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
#else
#pragma unroll
  for (int e = 0; e < 4; ++e) asm volatile("red.global.add.f32 [%0], %1;" ::"l"(to + e * 32), "f"(x[e]) : "memory");
#endif
}

}  // namespace laparoflow::cuda

#endif
