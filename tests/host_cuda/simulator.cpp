// Executes one block of threads on the CPU: a fiber per thread, switched at barriers and at warp
// collectives. Compiled without ThreadSanitizer; where the kernels are compiled with it, every fiber
// is announced to it as a thread of its own and only barriers synchronise, so it finds data races of
// the simulated threads in a run that is deterministic.
//
// What it checks besides: shared memory is poisoned (NaN) before each block and fenced; collectives are met by
// all lanes and are the same one; barriers are met by all threads; nobody waits forever.
#include "simulator.h"

#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#if defined(LAPAROFLOW_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
extern "C" void laparoflow_switch_stack(void** save, void* load);
#if !defined(__x86_64__)
#error "the stack switch of the host execution is written for x86-64"
#endif
asm(R"(
.text
.globl laparoflow_switch_stack
.type laparoflow_switch_stack,@function
laparoflow_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size laparoflow_switch_stack,.-laparoflow_switch_stack
)");

namespace laparoflow::cuda::simulator {

int thread = 0, threads = 0;
std::int64_t block = 0;
char* shared = nullptr;
std::vector<const char*> launches;
int shared_bytes = 0;

namespace {

constexpr std::size_t kStack = 512 * 1024;

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  bool done = true;
  void* tsan = nullptr;
  void* fake_stack = nullptr;
};

/// A rendezvous of the 32 lanes of a warp, or of the 128 of a warpgroup.
struct Warp {
  int arrived = 0;
  unsigned generation = 0;
  int operation = 0;
  const void* in[128];
  void* out[128];
};

Fiber fibers[kMaxThreads];
Warp warps[kMaxThreads / 32], warpgroups[kMaxThreads / 128];
int order_of_thread[kMaxThreads], thread_of_order[kMaxThreads];
void* main_stack_pointer = nullptr;
[[maybe_unused]] void* main_tsan = nullptr;
[[maybe_unused]] void* main_fake_stack = nullptr;
[[maybe_unused]] const void* main_bottom = nullptr;
[[maybe_unused]] std::size_t main_size = 0;
int live = 0, barrier_arrived = 0, idle = 0;
unsigned barrier_generation = 0;
int order = 0;
std::string failure;
void (*body)(const void*) = nullptr;
const void* body_argument = nullptr;

/// Switches from `from` (a thread, or -1 for the launcher) to `to`.
void switch_fiber(int from, int to) {
  void** save = from < 0 ? &main_stack_pointer : &fibers[from].stack_pointer;
  void* load = to < 0 ? main_stack_pointer : fibers[to].stack_pointer;
  thread = to;
#if defined(LAPAROFLOW_ASAN)
  void** fake = from < 0 ? &main_fake_stack : &fibers[from].fake_stack;
  __sanitizer_start_switch_fiber(from >= 0 && fibers[from].done ? nullptr : fake, to < 0 ? main_bottom : fibers[to].stack,
                                 to < 0 ? main_size : kStack);
#endif
#if defined(LAPAROFLOW_TSAN)
  __tsan_switch_to_fiber(to < 0 ? main_tsan : fibers[to].tsan, 1);  // 1: the switch itself orders nothing
#endif
  laparoflow_switch_stack(save, load);
#if defined(LAPAROFLOW_ASAN)
  __sanitizer_finish_switch_fiber(from < 0 ? main_fake_stack : fibers[from].fake_stack, nullptr, nullptr);
#endif
}

void fiber_main() {
#if defined(LAPAROFLOW_ASAN)
  const void* bottom;
  std::size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (live == threads && main_bottom == nullptr) main_bottom = bottom, main_size = size;
#endif
  body(body_argument);
  const int self = thread;
  end_async_of_thread();
  fibers[self].done = true;
  idle = 0;
  --live;
#if defined(LAPAROFLOW_TSAN)
  __tsan_release(&live);
#endif
  int next = -1;
  for (int i = 1; i < threads && next < 0; ++i) {
    const int candidate = thread_of_order[(order_of_thread[self] + i) % threads];
    if (!fibers[candidate].done) next = candidate;
  }
  switch_fiber(self, next);
  std::abort();
}

void prepare(Fiber& fiber) {
  if (fiber.stack == nullptr) {
    void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    fiber.stack = static_cast<char*>(memory);
  }
#if defined(LAPAROFLOW_ASAN)
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack, kStack);
#endif
#if defined(LAPAROFLOW_TSAN)
  if (fiber.tsan == nullptr) fiber.tsan = __tsan_create_fiber(0);
#endif
  // Six registers and the address that the first switch returns to; the stack is then as after a call.
  void** top = reinterpret_cast<void**>(fiber.stack + kStack) - 2;
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&fiber_main);
  top -= 6;
  std::memset(top, 0, 6 * sizeof(void*));
  fiber.stack_pointer = top;
  fiber.done = false;
}

}  // namespace

void fail(const std::string& what) {
  if (failure.empty()) failure = what + " (block " + std::to_string(block) + ", thread " + std::to_string(thread) + ")";
  switch_fiber(thread, -1);
  std::abort();
}

void progress() { idle = 0; }

void yield() {
  if (++idle > 4 * threads && !move_any_copy()) fail("deadlock: no thread can go on");
  const int self = thread;
  int at = order_of_thread[self];
  do {
    at = at + 1 == threads ? 0 : at + 1;
  } while (fibers[thread_of_order[at]].done);
  const int next = thread_of_order[at];
  if (next != self) switch_fiber(self, next);
}

void collective(int operation, const void* in, void* out, void (*run)(const void* const*, void* const*), int lanes) {
  Warp& warp = lanes == 32 ? warps[thread / 32] : warpgroups[thread / 128];
  const int lane = thread % lanes, first = thread - lane;
  if (warp.arrived > 0 && warp.operation != operation) fail("the lanes of a warp meet in different collectives");
  warp.operation = operation;
  warp.in[lane] = in;
  warp.out[lane] = out;
  const unsigned generation = warp.generation;
  if (++warp.arrived == lanes) {
    warp.arrived = 0;
    ++warp.generation;
    idle = 0;
    run(warp.in, warp.out);
    return;
  }
  while (warp.generation == generation) {
    for (int l = 0; l < lanes; ++l)
      if (fibers[first + l].done) fail("a lane of the warp has ended, the others wait in a collective");
    yield();
  }
}

void check_shared(const void* at, int bytes, int alignment, const char* what) {
  const char* p = static_cast<const char*>(at);
  if (p < shared || p + bytes > shared + shared_bytes) fail(std::string(what) + ": outside the shared memory");
  if ((p - shared) % alignment != 0) fail(std::string(what) + ": shared address not aligned");
}

void set_order(int order_) { order = order_; }

const char* message() { return failure.c_str(); }

void barrier() {
  const unsigned generation = barrier_generation;
  annotate_release(&barrier_generation);
  if (live != threads) fail("barrier after a thread of the block has ended");
  if (++barrier_arrived == threads) {
    barrier_arrived = 0;
    ++barrier_generation;
    idle = 0;
  } else {
    while (barrier_generation == generation) yield();
  }
  annotate_acquire(&barrier_generation);
}

void stop() { fail("the kernel was built without its engine"); }

std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const char*>(pointer) - shared);
}

bool run(void (*kernel)(const void*), const void* argument, std::int64_t blocks, int count, int bytes) {
  constexpr int kFence = 64;
  failure.clear();
  if (count < 1 || count > kMaxThreads || count % 32 != 0) {
    failure = "launch: " + std::to_string(count) + " threads in a block";
    return false;
  }
  threads = count;
  body = kernel;
  body_argument = argument;
  shared_bytes = bytes;
  for (int i = 0; i < threads; ++i) thread_of_order[i] = order == 0 ? i : order == 1 ? threads - 1 - i : i * 37 % threads;
  for (int i = 0; i < threads; ++i) order_of_thread[thread_of_order[i]] = i;
#if defined(LAPAROFLOW_TSAN)
  main_tsan = __tsan_get_current_fiber();
#endif
  for (block = 0; block < blocks && failure.empty(); ++block) {
    // A fresh block of memory each time, with nothing behind it but a fence (or AddressSanitizer's).
    const std::size_t size = (static_cast<std::size_t>(bytes) + 127) / 128 * 128 + kFence;
    char* memory = static_cast<char*>(std::aligned_alloc(1024, (size + 1023) / 1024 * 1024));
    std::memset(memory, 0xff, size);
    shared = memory;
#if defined(LAPAROFLOW_ASAN)
    ASAN_POISON_MEMORY_REGION(memory + bytes, size - bytes);
#endif
#if defined(LAPAROFLOW_TSAN)
    __tsan_write_range(memory, size);
    __tsan_release(&barrier_generation);
#endif
    begin_async();
    live = threads;
    barrier_arrived = 0;
    idle = 0;
    for (int i = 0; i < threads; ++i) {
      prepare(fibers[i]);
#if defined(LAPAROFLOW_TSAN)
      __tsan_switch_to_fiber(fibers[i].tsan, 0);  // the launch happens before every thread
      __tsan_switch_to_fiber(main_tsan, 1);
#endif
    }
    for (Warp& warp : warps) warp = Warp();
    for (Warp& warpgroup : warpgroups) warpgroup = Warp();
    switch_fiber(-1, thread_of_order[0]);
    if (failure.empty() && copies_in_flight()) failure = "a block ended with bulk copies in flight";
#if defined(LAPAROFLOW_TSAN)
    __tsan_acquire(&live);
#endif
#if defined(LAPAROFLOW_ASAN)
    ASAN_UNPOISON_MEMORY_REGION(memory, size);
#else
    for (std::size_t i = bytes; i < size; ++i)
      if (static_cast<unsigned char>(memory[i]) != 0xff && failure.empty())
        failure = "a store behind the shared memory (block " + std::to_string(block) + ")";
#endif
    std::free(memory);
  }
  return failure.empty();
}

}  // namespace laparoflow::cuda::simulator
