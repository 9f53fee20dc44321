// Machine instructions of sm_90a: warpgroup matrix products, bulk copies, mbarriers. Each behind one function.
//
// wgmma m64n64k16: the 4 warps of a warpgroup multiply 64 x 16 by 16 x 64. Warp w holds rows 16 w .. 16 w + 15
// of the accumulator in the fragment layout of mma m16n8 (8 of them side by side), and, when A comes from
// registers, of A in the layout of mma m16n8k16. Operands in shared memory are rows of 128 bytes, 8 rows to a group of
// 1024 bytes that starts at a multiple of 1024, the 16-byte pieces of row r exchanged by XOR with r % 8 ("128-byte
// swizzle"). Either index of the operand may run along the 128 bytes:
//   along k:          element (i, k) in row i; a step of 16 along k is 32 bytes further
//   along the other:  element (k, j) in row k; a step of 16 along k is 2048 bytes further
// or, without swizzle and of a single step along k, blocks of 8 rows x 16 bytes.
// mbarrier: a phase ends when `count` threads have arrived and all announced bytes have come; waiting for parity p
// returns when the phase of parity p is over, so a fresh barrier lets parity 1 pass.
// The host definitions are in tests/host_cuda/host_instructions_sm90a.h.
#pragma once

#include "../common/instructions.cuh"

namespace laparoflow::cuda {

constexpr int kSwizzleRow = 128;                // bytes
constexpr int kSwizzleGroup = 8 * kSwizzleRow;  // 8 rows

/// The place of byte `offset` of an operand whose start is a multiple of kSwizzleGroup.
LAPAROFLOW_HOST_DEVICE int swizzled(int offset) { return offset ^ ((offset >> 7 & 7) << 4); }

/// Descriptor of an operand in shared memory: 128-byte swizzle, groups of 8 rows 1024 bytes apart. Operands differ in the
/// low half alone, whose lowest bits are the address / 16, so that a step is one addition of 32 bits.
struct Operand {
  std::uint32_t low;
  static constexpr std::uint32_t kHigh = kSwizzleGroup >> 4 | 1u << 30;
  LAPAROFLOW_HOST_DEVICE Operand further(int bytes) const { return {low + static_cast<std::uint32_t>(bytes >> 4)}; }
};
LAPAROFLOW_HOST_DEVICE Operand swizzled_operand(std::uint32_t address) {
  return {((address >> 4) & 0x3fffu) | static_cast<std::uint32_t>(kSwizzleGroup >> 4) << 16};
}

/// Descriptor of an operand of one step along k without swizzle: blocks of 8 rows x 16 bytes, k's second half a block behind
/// the first, groups of 8 rows two blocks apart.
struct PlainOperand {
  std::uint32_t low;
  static constexpr std::uint32_t kHigh = 256 >> 4;
  LAPAROFLOW_HOST_DEVICE PlainOperand further(int bytes) const { return {low + static_cast<std::uint32_t>(bytes >> 4)}; }
};
LAPAROFLOW_HOST_DEVICE PlainOperand plain_operand(std::uint32_t address) {
  return {((address >> 4) & 0x3fffu) | static_cast<std::uint32_t>(128 >> 4) << 16};
}

using Barrier = std::uint64_t;  // in shared memory

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

/// The value of the warp's first thread, where all have the same: the compiler then knows that, and keeps what follows from
/// it in registers of the warp.
LAPAROFLOW_DEVICE std::uint32_t same_in_warp(std::uint32_t x) { return __shfl_sync(0xffffffffu, x, 0); }

/// Makes this thread's earlier writes to shared memory visible to wgmma (after a barrier, of all threads).
LAPAROFLOW_DEVICE void publish_shared_writes() { LAPAROFLOW_SM90A("fence.proxy.async.shared::cta;" :: : "memory"); }
/// Writes four 8x8 matrices of 16-bit elements to shared memory for wgmma, which sees them once they are published; lane l
/// gives the shared address of row l % 8 of matrix l / 8, and `r` has the layout of load_matrices.
LAPAROFLOW_DEVICE void store_matrices(std::uint32_t row, const std::uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}
LAPAROFLOW_DEVICE void warpgroup_fence() { LAPAROFLOW_SM90A("wgmma.fence.sync.aligned;" :: : "memory"); }
LAPAROFLOW_DEVICE void warpgroup_commit() { LAPAROFLOW_SM90A("wgmma.commit_group.sync.aligned;" :: : "memory"); }
/// Waits for all products; their accumulators may be read after it.
LAPAROFLOW_DEVICE void warpgroup_wait() { LAPAROFLOW_SM90A("wgmma.wait_group.sync.aligned 0;" :: : "memory"); }

/// Keeps the compiler from moving what it does with these accumulators past this place: products are under way between
/// one call before their fence and one after their wait.
template <int kTiles>
LAPAROFLOW_DEVICE void hold_accumulators(float (&d)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
}

#define LAPAROFLOW_ROW_OF(kind, d) kind(d[0]), kind(d[1]), kind(d[2]), kind(d[3])
#define LAPAROFLOW_ACCUMULATORS(kind, d)                                                           \
  LAPAROFLOW_ROW_OF(kind, d[0]), LAPAROFLOW_ROW_OF(kind, d[1]), LAPAROFLOW_ROW_OF(kind, d[2]),     \
      LAPAROFLOW_ROW_OF(kind, d[3]), LAPAROFLOW_ROW_OF(kind, d[4]), LAPAROFLOW_ROW_OF(kind, d[5]), \
      LAPAROFLOW_ROW_OF(kind, d[6]), LAPAROFLOW_ROW_OF(kind, d[7])
#define LAPAROFLOW_ACCUMULATOR_NAMES                                                                      \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
// Operands a and b in shared memory; `add` is 1 to add to what d held; `order` says along which index both run.
#define LAPAROFLOW_WGMMA_SHARED(Type, Where, name, function, kind, add, order)                                      \
  LAPAROFLOW_DEVICE void function(float (&d)[8][4], Where a, Where b, Type) {                                       \
    LAPAROFLOW_SM90A(                                                                                               \
        "{.reg .b64 a, b; mov.b64 a, {%32, %34}; mov.b64 b, {%33, %34};"                                            \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." name "." name " " LAPAROFLOW_ACCUMULATOR_NAMES ", a, b, " add \
        ", 1, 1, " order ";}" : LAPAROFLOW_ACCUMULATORS(kind, d) : "r"(a.low),                                      \
        "r"(b.low), "n"(Where::kHigh));                                                                             \
  }
#define LAPAROFLOW_WGMMA(Type, name)                                                                              \
  /* d = A B with A [64, 16] and B [16, 64], both along k. What d held is not read, and need not be cleared. */   \
  LAPAROFLOW_WGMMA_SHARED(Type, Operand, name, warpgroup_multiply, "=f", "0", "0, 0")                             \
  /* d += A B of the same. */                                                                                     \
  LAPAROFLOW_WGMMA_SHARED(Type, Operand, name, warpgroup_multiply_add, "+f", "1", "0, 0")                         \
  /* d = A B with A [64, 16] along its 64 and B [16, 64] along its columns. */                                    \
  LAPAROFLOW_WGMMA_SHARED(Type, Operand, name, warpgroup_multiply_rows, "=f", "0", "1, 1")                        \
  /* d += A B of the same. */                                                                                     \
  LAPAROFLOW_WGMMA_SHARED(Type, Operand, name, warpgroup_multiply_add_rows, "+f", "1", "1, 1")                    \
  /* d += A B with A from registers and B [16, 64] along its columns in shared memory. */                         \
  LAPAROFLOW_DEVICE void warpgroup_multiply_add(float (&d)[8][4], const std::uint32_t (&a)[4], Operand b, Type) { \
    LAPAROFLOW_SM90A(                                                                                             \
        "{.reg .b64 b; mov.b64 b, {%36, %37};"                                                                    \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." name "." name " " LAPAROFLOW_ACCUMULATOR_NAMES              \
        ", {%32, %33, %34, %35}, b, 1, 1, 1, 1;}" : LAPAROFLOW_ACCUMULATORS("+f", d) : "r"(a[0]),                 \
        "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.low), "n"(Operand::kHigh));                                        \
  }
LAPAROFLOW_WGMMA(BFloat16, "bf16")
LAPAROFLOW_WGMMA(Half, "f16")
LAPAROFLOW_WGMMA_SHARED(Half, PlainOperand, "f16", warpgroup_multiply, "=f", "0", "0, 0")

LAPAROFLOW_DEVICE void barrier_init(Barrier* barrier, int count) {
  LAPAROFLOW_SM90A("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
/// Makes initialised barriers visible to bulk copies; a barrier of the block follows.
LAPAROFLOW_DEVICE void barrier_init_publish() { LAPAROFLOW_SM90A("fence.mbarrier_init.release.cluster;" :: : "memory"); }
LAPAROFLOW_DEVICE void barrier_arrive(Barrier* barrier) {
  LAPAROFLOW_SM90A("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
/// Arrives and announces `bytes` that the phase waits for.
LAPAROFLOW_DEVICE void barrier_arrive_expect(Barrier* barrier, int bytes) {
  LAPAROFLOW_SM90A("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                   "r"(bytes) : "memory");
}
/// Each try holds the thread for a while, so the loop takes few instructions from those who compute.
LAPAROFLOW_DEVICE void barrier_wait(Barrier* barrier, unsigned parity) {
  LAPAROFLOW_SM90A(
      "{.reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again;}" ::"r"(
          shared_address(barrier)),
      "r"(parity) : "memory");
}
/// Copies `bytes` (a multiple of 16, both ends aligned to 16) to shared memory and reports them to the barrier.
LAPAROFLOW_DEVICE void bulk_copy(void* shared, const void* global, int bytes, Barrier* barrier) {
  LAPAROFLOW_SM90A("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                       shared_address(shared)),
                   "l"(global), "r"(bytes), "r"(shared_address(barrier)) : "memory");
}
/// Barrier `id` (1..15) of `count` threads of the block.
LAPAROFLOW_DEVICE void named_barrier(int id, int count) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
}
/// The registers of each thread of this warpgroup from here on.
template <int kCount>
LAPAROFLOW_DEVICE void raise_registers() {
  LAPAROFLOW_SM90A("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
LAPAROFLOW_DEVICE void lower_registers() {
  LAPAROFLOW_SM90A("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

}  // namespace laparoflow::cuda

#else
#include "host_instructions_sm90a.h"
#endif
