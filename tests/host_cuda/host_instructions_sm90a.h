// Host definitions of csrc/cuda/sm90a/instructions.cuh: warpgroup products and registers (simulator_warpgroup.cpp), bulk
// copies and mbarriers (simulator_async.cpp), each as slow as the PTX manual allows.
#pragma once

#include <cstdint>

#include "host_instructions.h"

namespace laparoflow::cuda {

namespace simulator {
void publish();
void warpgroup_fence();
void warpgroup_commit();
void warpgroup_wait();
/// `d` [8][4] += A B; A from registers, or by descriptor when `a` is null.
void warpgroup_multiply(float* d, const std::uint32_t* a, std::uint64_t a_descriptor, std::uint64_t b_descriptor,
                        bool k_contiguous, bool accumulate, MmaType type);
void store_matrices(void* row, const std::uint32_t (&r)[4]);
void barrier_init(Barrier* barrier, int count);
void barrier_init_publish();
void barrier_arrive(Barrier* barrier, int bytes);
void barrier_wait(Barrier* barrier, unsigned parity);
void bulk_copy(void* shared, const void* global, int bytes, Barrier* barrier);
void named_barrier(int id, int count);
std::uint32_t same_in_warp(std::uint32_t x);
/// The registers of each thread of this warpgroup.
void change_registers(int count, bool raise);
}  // namespace simulator

constexpr bool kHasWarpgroupProducts = true;
inline void publish_shared_writes() { simulator::publish(); }
inline void warpgroup_fence() { simulator::warpgroup_fence(); }
inline void warpgroup_commit() { simulator::warpgroup_commit(); }
inline void warpgroup_wait() { simulator::warpgroup_wait(); }
inline simulator::MmaType mma_type(BFloat16) { return simulator::MmaType::kBFloat16; }
inline simulator::MmaType mma_type(Half) { return simulator::MmaType::kHalf; }
template <class Where>
std::uint64_t descriptor(Where x) {
  return std::uint64_t{Where::kHigh} << 32 | x.low;
}
inline std::uint32_t same_in_warp(std::uint32_t x) { return simulator::same_in_warp(x); }
template <class Where, class T>
void warpgroup_multiply(float (&d)[8][4], Where a, Where b, T) {
  simulator::warpgroup_multiply(&d[0][0], nullptr, descriptor(a), descriptor(b), true, false, mma_type(T{}));
}
template <class T>
void warpgroup_multiply_add(float (&d)[8][4], Operand a, Operand b, T) {
  simulator::warpgroup_multiply(&d[0][0], nullptr, descriptor(a), descriptor(b), true, true, mma_type(T{}));
}
template <class T>
void warpgroup_multiply_add(float (&d)[8][4], const std::uint32_t (&a)[4], Operand b, T) {
  simulator::warpgroup_multiply(&d[0][0], a, 0, descriptor(b), false, true, mma_type(T{}));
}
template <int kTiles>
void hold_accumulators(float (&)[kTiles][4]) {}
template <class T>
void warpgroup_multiply_rows(float (&d)[8][4], Operand a, Operand b, T) {
  simulator::warpgroup_multiply(&d[0][0], nullptr, descriptor(a), descriptor(b), false, false, mma_type(T{}));
}
template <class T>
void warpgroup_multiply_add_rows(float (&d)[8][4], Operand a, Operand b, T) {
  simulator::warpgroup_multiply(&d[0][0], nullptr, descriptor(a), descriptor(b), false, true, mma_type(T{}));
}
inline void store_matrices(std::uint32_t row, const std::uint32_t (&r)[4]) {
  simulator::store_matrices(simulator::shared + row, r);
}
inline void barrier_init(Barrier* barrier, int count) { simulator::barrier_init(barrier, count); }
inline void barrier_init_publish() { simulator::barrier_init_publish(); }
inline void barrier_arrive(Barrier* barrier) { simulator::barrier_arrive(barrier, 0); }
inline void barrier_arrive_expect(Barrier* barrier, int bytes) { simulator::barrier_arrive(barrier, bytes); }
inline void barrier_wait(Barrier* barrier, unsigned parity) { simulator::barrier_wait(barrier, parity); }
inline void bulk_copy(void* shared, const void* global, int bytes, Barrier* barrier) {
  simulator::bulk_copy(shared, global, bytes, barrier);
}
inline void named_barrier(int id, int count) { simulator::named_barrier(id, count); }
template <int kCount>
void raise_registers() {
  simulator::change_registers(kCount, true);
}
template <int kCount>
void lower_registers() {
  simulator::change_registers(kCount, false);
}

}  // namespace laparoflow::cuda
