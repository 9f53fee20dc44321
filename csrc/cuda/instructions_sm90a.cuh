// Machine instructions of sm_90a: warpgroup matrix products. Each behind one function.
//
// wgmma m64n64k16: the 4 warps of a warpgroup multiply 64 x 16 by 16 x 64. Warp w holds rows 16 w .. 16 w + 15
// of the accumulator in the fragment layout of mma m16n8 (8 of them side by side), and, when A comes from
// registers, of A in the layout of mma m16n8k16. Operands in shared memory are made of 8 x 16-byte core
// matrices without swizzle; a descriptor gives the address and the byte distance of core matrices
// along k ("leading") and along the rows or columns ("stride").
// The host definitions are in tests/host_cuda/host_instructions.h.
#pragma once

#include "instructions_sm80.cuh"

namespace laparoflow::cuda {

/// Where core matrices lie; 14-bit fields in units of 16 bytes, no swizzle.
LAPAROFLOW_HOST_DEVICE std::uint64_t core_matrices(std::uint32_t address, int leading_bytes, int stride_bytes) {
  return ((address >> 4) & 0x3fffu) | static_cast<std::uint64_t>((leading_bytes >> 4) & 0x3fff) << 16 |
         static_cast<std::uint64_t>((stride_bytes >> 4) & 0x3fff) << 32;
}

}  // namespace laparoflow::cuda

#if !defined(LAPAROFLOW_HOST_EXECUTION)

namespace laparoflow::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
constexpr bool kHasWarpgroupProducts = true;
#else
constexpr bool kHasWarpgroupProducts = false;
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LAPAROFLOW_SM90A(...) asm volatile(__VA_ARGS__)
#else
#define LAPAROFLOW_SM90A(...) asm volatile("trap;")
#endif

/// Makes this thread's earlier writes to shared memory visible to wgmma (after a barrier, of all threads).
LAPAROFLOW_DEVICE void publish_shared_writes() { LAPAROFLOW_SM90A("fence.proxy.async.shared::cta;" ::: "memory"); }
LAPAROFLOW_DEVICE void warpgroup_fence() { LAPAROFLOW_SM90A("wgmma.fence.sync.aligned;" ::: "memory"); }
LAPAROFLOW_DEVICE void warpgroup_commit() { LAPAROFLOW_SM90A("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits for all products; their accumulators may be read after it.
LAPAROFLOW_DEVICE void warpgroup_wait() { LAPAROFLOW_SM90A("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

#define LAPAROFLOW_ACCUMULATORS(d)                                                                                    \
  "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),            \
      "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),        \
      "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),        \
      "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),        \
      "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
#define LAPAROFLOW_ACCUMULATOR_NAMES                                                                       \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define LAPAROFLOW_WGMMA(Type, name)                                                                                  \
  /* d = (accumulate ? d : 0) + A B with A [64, 16] and B [16, 64], both with k contiguous in shared memory. */       \
  LAPAROFLOW_DEVICE void warpgroup_multiply(float (&d)[8][4], std::uint64_t a, std::uint64_t b, bool accumulate,      \
                                            Type) {                                                                   \
    LAPAROFLOW_SM90A("{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." name "." name \
                     " " LAPAROFLOW_ACCUMULATOR_NAMES ", %32, %33, p, 1, 1, 0, 0;}"                                   \
                     : LAPAROFLOW_ACCUMULATORS(d)                                                                     \
                     : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));                                            \
  }                                                                                                                   \
  /* d += A B with A from registers and B [16, 64] with its columns contiguous in shared memory. */                   \
  LAPAROFLOW_DEVICE void warpgroup_multiply_add(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t b, Type) { \
    LAPAROFLOW_SM90A("wgmma.mma_async.sync.aligned.m64n64k16.f32." name "." name " " LAPAROFLOW_ACCUMULATOR_NAMES     \
                     ", {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"                                                       \
                     : LAPAROFLOW_ACCUMULATORS(d)                                                                     \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                           \
  }
LAPAROFLOW_WGMMA(BFloat16, "bf16")
LAPAROFLOW_WGMMA(Half, "f16")

}  // namespace laparoflow::cuda

#else

namespace laparoflow::cuda {

constexpr bool kHasWarpgroupProducts = true;
inline std::uint32_t shared_address(const void* pointer) { return simulator::shared_address(pointer); }
inline void publish_shared_writes() { simulator::publish(); }
inline void warpgroup_fence() { simulator::warpgroup_fence(); }
inline void warpgroup_commit() { simulator::warpgroup_commit(); }
inline void warpgroup_wait() { simulator::warpgroup_wait(); }
inline simulator::MmaType mma_type(BFloat16) { return simulator::MmaType::kBFloat16; }
inline simulator::MmaType mma_type(Half) { return simulator::MmaType::kHalf; }
template <class T>
void warpgroup_multiply(float (&d)[8][4], std::uint64_t a, std::uint64_t b, bool accumulate, T) {
  simulator::warpgroup_multiply(&d[0][0], nullptr, a, b, accumulate, mma_type(T{}));
}
template <class T>
void warpgroup_multiply_add(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t b, T) {
  simulator::warpgroup_multiply(&d[0][0], a, 0, b, true, mma_type(T{}));
}

}  // namespace laparoflow::cuda

#endif
