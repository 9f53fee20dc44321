// The host's side of csrc/cuda/common/platform.cuh: the threads of a block are fibers of one CPU thread.
// simulator.cpp runs them; launch() runs the blocks of a grid one after another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <typeinfo>
#include <vector>

#define LAPAROFLOW_DEVICE inline
#define LAPAROFLOW_KERNEL(threads, blocks) inline void

namespace laparoflow::cuda {

using Stream = void*;
using Status = int;
constexpr Status kSuccess = 0;
constexpr Status kDoesNotFit = -1, kTooManyBlocks = -2;
constexpr Status kKernelFailed = 2;  // simulator::message() says how

namespace simulator {

extern int thread, threads;
extern std::int64_t block;
extern char* shared;
/// What was launched with at least one block: the types of the kernels' arguments.
extern std::vector<const char*> launches;

void barrier();
void stop();
const char* message();

/// The order in which runnable threads take turns: 0 ascending, 1 descending, 2 scattered.
void set_order(int order);

/// Runs `body(argument)` on every thread of every block. `bytes` of poisoned shared memory each.
bool run(void (*body)(const void*), const void* argument, std::int64_t blocks, int threads, int bytes);

}  // namespace simulator

inline int thread_index() { return simulator::thread; }
inline int thread_index_again() { return thread_index(); }
inline int thread_count() { return simulator::threads; }
inline std::int64_t block_index() { return simulator::block; }
inline void block_barrier() { simulator::barrier(); }
inline void read_memory_again() {}
inline void stop_kernel() { simulator::stop(); }
inline char* shared_memory() { return simulator::shared; }

template <class Arguments>
struct BoundKernel {
  void (*kernel)(Arguments);
  Arguments arguments;
  static void call(const void* self) {
    const BoundKernel* bound = static_cast<const BoundKernel*>(self);
    bound->kernel(bound->arguments);
  }
};

template <class Arguments>
Status launch(void (*kernel)(Arguments), std::int64_t blocks, int threads, int bytes, Stream, const Arguments& arguments) {
  if (blocks > 0x7fffffff) return kTooManyBlocks;
  if (blocks > 0) simulator::launches.push_back(typeid(Arguments).name());
  const BoundKernel<Arguments> bound{kernel, arguments};
  return simulator::run(&BoundKernel<Arguments>::call, &bound, blocks, threads, bytes) ? kSuccess : kKernelFailed;
}

}  // namespace laparoflow::cuda
