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
  LAPAROFLOW_DEVICE static float max(float a, float b) { return fmaxf(a, b); }
  /// a * b with results below 2^-126 replaced by zero, whatever flags the file is compiled with.
  LAPAROFLOW_DEVICE static float multiply_flush(float a, float b) {
    float y;
    asm("mul.ftz.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
  }
  LAPAROFLOW_DEVICE static float abs(float a) { return fabsf(a); }
  LAPAROFLOW_DEVICE static float add_round_down(float a, float b) { return __fadd_rd(a, b); }
  LAPAROFLOW_DEVICE static std::uint32_t to_bits(float x) { return __float_as_uint(x); }
  LAPAROFLOW_DEVICE static float from_bits(std::uint32_t x) { return __uint_as_float(x); }
};

/// exp, log of a single number with full accuracy (used once per row, not per pair).
LAPAROFLOW_DEVICE float accurate_log2(float x) { return ::log2f(x); }
LAPAROFLOW_DEVICE float accurate_exp2(float x) { return ::exp2f(x); }

LAPAROFLOW_DEVICE float shuffle_xor(float value, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

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

/// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
LAPAROFLOW_DEVICE void load_matrices(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
LAPAROFLOW_DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

LAPAROFLOW_DEVICE void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                                    BFloat16) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
LAPAROFLOW_DEVICE void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                                    Half) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// m16n8k8 on tf32 operands (see round_to_tf32).
LAPAROFLOW_DEVICE void multiply_add_tf32(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                         std::uint32_t b1) {
  asm(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
LAPAROFLOW_DEVICE std::uint32_t round_to_tf32(float x) {
  std::uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

/// Two floats rounded to nearest even; the first goes to the low half.
LAPAROFLOW_DEVICE std::uint32_t pack_pair(float low, float high, BFloat16) {
  std::uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
LAPAROFLOW_DEVICE std::uint32_t pack_pair(float low, float high, Half) {
  std::uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

}  // namespace laparoflow::cuda

#endif
