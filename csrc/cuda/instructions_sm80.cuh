// Machine instructions of sm_80, each behind one function. Nothing here knows about the loss.
//
// Fragment layouts (PTX manual, "Matrix Fragments for mma"): with g = lane / 4 and t = lane % 4,
//   m16n8k16, 16-bit A: registers hold (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..)
//                    B: (k = 2t.., n = g), (k = 2t + 8.., n = g)
//   m16n8k8, tf32    A: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4);  B: (t, g), (t + 4, g)
//   both             C: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
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
  LAPAROFLOW_DEVICE static float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  LAPAROFLOW_DEVICE static float log2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  LAPAROFLOW_DEVICE static float sqrt(float x) {
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  LAPAROFLOW_DEVICE static float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
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

/// Copies 16 bytes global to shared asynchronously; zeros when `valid` is false (nothing is read).
LAPAROFLOW_DEVICE void copy_async_16(void* shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
LAPAROFLOW_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `kPending` of this thread's newest groups are under way.
template <int kPending>
LAPAROFLOW_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Four 8x8 matrices of 16-bit elements; lane l gives the shared address of row l % 8 of matrix l / 8.
LAPAROFLOW_DEVICE void load_matrices(std::uint32_t (&r)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
LAPAROFLOW_DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

#define LAPAROFLOW_16_BIT_INSTRUCTIONS(Type, name, finite)                                                             \
  LAPAROFLOW_DEVICE void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,  \
                                      Type) {                                                                          \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                                                         \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                         \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                               \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                               \
  }                                                                                                                    \
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

/// m16n8k8 on tf32 operands (see round_to_tf32).
LAPAROFLOW_DEVICE void multiply_add_tf32(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
LAPAROFLOW_DEVICE std::uint32_t round_to_tf32(float x) {
  std::uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
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
