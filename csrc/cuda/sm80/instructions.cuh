// Machine instructions of sm_80: matrix products of a warp and asynchronous copies.
//
// Fragment layouts (PTX manual, "Matrix Fragments for mma"): with g = lane / 4 and t = lane % 4,
//   m16n8k16, 16-bit A: registers hold (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..)
//                    B: (k = 2t.., n = g), (k = 2t + 8.., n = g)
//   m16n8k8, tf32    A: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4);  B: (t, g), (t + 4, g)
//   both             C: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// The host definitions of the same functions are in tests/host_cuda/host_instructions.h.
#pragma once

#include "../common/instructions.cuh"

#if !defined(LAPAROFLOW_HOST_EXECUTION)

namespace laparoflow::cuda {

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

#define LAPAROFLOW_MULTIPLY_ADD(Type, name)                                                                           \
  LAPAROFLOW_DEVICE void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, \
                                      Type) {                                                                         \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                                                        \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                        \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                              \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                              \
  }
LAPAROFLOW_MULTIPLY_ADD(BFloat16, "bf16")
LAPAROFLOW_MULTIPLY_ADD(Half, "f16")

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

}  // namespace laparoflow::cuda

#endif
