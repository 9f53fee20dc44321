// What the kernels need of their surroundings, for nvcc and for the host build of the tests.
//
// Under nvcc this is CUDA itself. With LAPAROFLOW_HOST_EXECUTION the same names come from
// tests/host_cuda/host_platform.h, where the threads of a block are fibers on the CPU.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../../pair_math.h"

#if defined(LAPAROFLOW_HOST_EXECUTION)
#include "host_platform.h"
#else

#include <cuda_runtime.h>

#define LAPAROFLOW_DEVICE __device__ __forceinline__
#define LAPAROFLOW_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)

namespace laparoflow::cuda {

using Stream = cudaStream_t;
using Status = int;  // a cudaError_t, or one of ours
constexpr Status kSuccess = cudaSuccess;
constexpr Status kDoesNotFit = -1;     // too little shared memory in a block; no error of CUDA is negative
constexpr Status kTooManyBlocks = -2;  // for a grid

#if defined(__CUDACC__)  // host files include this for the types alone

LAPAROFLOW_DEVICE int thread_index() { return threadIdx.x; }
/// The same, read anew: what follows from it is not held in registers across a loop.
LAPAROFLOW_DEVICE int thread_index_again() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}
LAPAROFLOW_DEVICE int thread_count() { return blockDim.x; }
LAPAROFLOW_DEVICE std::int64_t block_index() { return blockIdx.x; }
LAPAROFLOW_DEVICE void block_barrier() { __syncthreads(); }
/// What was read from memory before is read again when it is needed after this.
LAPAROFLOW_DEVICE void read_memory_again() { asm volatile("" ::: "memory"); }
/// Fails the launch instead of returning without a result.
LAPAROFLOW_DEVICE void stop_kernel() { __trap(); }

/// The dynamic shared memory of the block, at a multiple of 1024 bytes.
LAPAROFLOW_DEVICE char* shared_memory() {
  extern __shared__ __align__(1024) char laparoflow_shared_memory[];
  return laparoflow_shared_memory;
}

/// Launches `kernel(arguments)` with `bytes` of dynamic shared memory; the argument travels by value.
template <class Arguments>
Status launch(void (*kernel)(Arguments), std::int64_t blocks, int threads, int bytes, Stream stream,
              const Arguments& arguments) {
  if (blocks == 0) return kSuccess;
  if (blocks > 0x7fffffff) return kTooManyBlocks;
  if (bytes > 48 * 1024) {
    const Status status =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (status != cudaSuccess) return status;
  }
  void* pointers[] = {const_cast<Arguments*>(&arguments)};
  const Status status = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(blocks)),
                                         dim3(threads), pointers, bytes, stream);
  return status != cudaSuccess ? status : cudaGetLastError();
}

#endif

}  // namespace laparoflow::cuda

#endif
