// Executes one block of threads on the CPU: a fiber per thread, switched at barriers and at warp
// collectives. Compiled without ThreadSanitizer; where the kernels are compiled with it, every fiber
// is announced to it as a thread of its own and only barriers synchronise, so it finds data races of
// the simulated threads in a run that is deterministic.
//
// What it checks besides: shared memory is poisoned (NaN) before each block and fenced; addresses of
// ldmatrix and cp.async are inside it and aligned; collectives are met by all 32 lanes and are the same
// one; barriers are met by all threads; nobody waits forever; no copy is left in flight.
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "host_instructions.h"
#include "host_platform.h"

#if defined(LAPAROFLOW_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(LAPAROFLOW_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void*);
void __tsan_release(void*);
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
}
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

namespace {

constexpr std::size_t kStack = 512 * 1024;
constexpr int kMaxThreads = 1024;

struct Copy {
  char* to;
  const char* from;
  bool valid;
};

/// The accumulators of wgmma are written when they are waited for.
struct Product {
  float* to;
  float value[32];
};

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  bool done = true;
  std::vector<std::vector<Copy>> groups;  // cp.async groups that are committed, oldest first
  std::vector<Copy> open;
  bool unpublished = false;               // copies have landed that wgmma cannot see yet
  std::vector<Product> products;          // accumulators under way
  bool fenced = false;
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
int shared_bytes = 0;
int order = 0;
std::string failure;
void (*body)(const void*) = nullptr;
const void* body_argument = nullptr;

void annotate_read(const void* at, std::size_t bytes) {
#if defined(LAPAROFLOW_TSAN)
  __tsan_read_range(const_cast<void*>(at), bytes);
#endif
  (void)at, (void)bytes;
}
void annotate_write(void* at, std::size_t bytes) {
#if defined(LAPAROFLOW_TSAN)
  __tsan_write_range(at, bytes);
#endif
  (void)at, (void)bytes;
}

/// Switches from `from` (a thread, or -1 for the launcher) to `to`.
void switch_fiber(int from, int to) {
  void** save = from < 0 ? &main_stack_pointer : &fibers[from].stack_pointer;
  void* load = to < 0 ? main_stack_pointer : fibers[to].stack_pointer;
  thread = to;
#if defined(LAPAROFLOW_ASAN)
  void** fake = from < 0 ? &main_fake_stack : &fibers[from].fake_stack;
  __sanitizer_start_switch_fiber(from >= 0 && fibers[from].done ? nullptr : fake,
                                 to < 0 ? main_bottom : fibers[to].stack, to < 0 ? main_size : kStack);
#endif
#if defined(LAPAROFLOW_TSAN)
  __tsan_switch_to_fiber(to < 0 ? main_tsan : fibers[to].tsan, 1);  // 1: the switch itself orders nothing
#endif
  laparoflow_switch_stack(save, load);
#if defined(LAPAROFLOW_ASAN)
  __sanitizer_finish_switch_fiber(from < 0 ? main_fake_stack : fibers[from].fake_stack, nullptr, nullptr);
#endif
}

/// Ends the launch with a message; the fibers are abandoned where they stand.
[[noreturn]] void fail(const std::string& what) {
  if (failure.empty())
    failure = what + " (block " + std::to_string(block) + ", thread " + std::to_string(thread) + ")";
  switch_fiber(thread, -1);
  std::abort();
}

/// Lets the next unfinished thread run.
void yield() {
  if (++idle > 4 * threads) fail("deadlock: no thread can go on");
  const int self = thread;
  int at = order_of_thread[self];
  do {
    at = at + 1 == threads ? 0 : at + 1;
  } while (fibers[thread_of_order[at]].done);
  const int next = thread_of_order[at];
  if (next != self) switch_fiber(self, next);
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
  if (!fibers[self].open.empty() || !fibers[self].groups.empty()) fail("a thread ended with copies in flight");
  if (!fibers[self].products.empty()) fail("a thread ended with products in flight");
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
  fiber.groups.clear();
  fiber.open.clear();
  fiber.products.clear();
  fiber.unpublished = fiber.fenced = false;
}

/// Meets the other lanes of the warp (or warpgroup); the last to come runs `run` over all lanes' arguments.
void collective(int operation, const void* in, void* out, void (*run)(const void* const*, void* const*),
                int lanes = 32) {
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

float from_bfloat16(std::uint16_t x) { return DeviceMath::from_bits(static_cast<std::uint32_t>(x) << 16); }

float from_half(std::uint16_t x) {
  const int exponent = (x >> 10) & 31, mantissa = x & 1023;
  float y;
  if (exponent == 31)
    y = mantissa ? NAN : INFINITY;
  else if (exponent == 0)
    y = std::ldexp(static_cast<float>(mantissa), -24);
  else
    y = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return x & 0x8000 ? -y : y;
}

struct MmaIn {
  const std::uint32_t* a;
  std::uint32_t b[2];
  const float* c;
  MmaType type;
};

void run_mma(const void* const* in, void* const* out) {
  const MmaType type = static_cast<const MmaIn*>(in[0])->type;
  const bool wide = type == MmaType::kTf32;
  const int depth = wide ? 8 : 16;
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaIn& x = *static_cast<const MmaIn*>(in[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) {
      const int row = g + (r % 2) * 8;
      if (wide) {
        a[row][t + r / 2 * 4] = DeviceMath::from_bits(x.a[r] & 0xffffe000u);
      } else {
        for (int h = 0; h < 2; ++h) {
          const std::uint16_t bits = static_cast<std::uint16_t>(x.a[r] >> (16 * h));
          a[row][2 * t + h + r / 2 * 8] = type == MmaType::kHalf ? from_half(bits) : from_bfloat16(bits);
        }
      }
    }
    for (int r = 0; r < 2; ++r) {
      if (wide) {
        b[t + 4 * r][g] = DeviceMath::from_bits(x.b[r] & 0xffffe000u);
      } else {
        for (int h = 0; h < 2; ++h) {
          const std::uint16_t bits = static_cast<std::uint16_t>(x.b[r] >> (16 * h));
          b[2 * t + h + 8 * r][g] = type == MmaType::kHalf ? from_half(bits) : from_bfloat16(bits);
        }
      }
    }
  }
  float sums[16][8];
  for (int i = 0; i < 16; ++i) {
    double row[8] = {};
    for (int k = 0; k < depth; ++k)
      for (int j = 0; j < 8; ++j) row[j] += static_cast<double>(a[i][k]) * b[k][j];
    for (int j = 0; j < 8; ++j) sums[i][j] = static_cast<float>(row[j]);
  }
  for (int lane = 0; lane < 32; ++lane) {
    const float* c = static_cast<const MmaIn*>(in[lane])->c;
    float* to = static_cast<float*>(out[lane]);
    for (int e = 0; e < 4; ++e) to[e] = c[e] + sums[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2];
  }
}

void run_matrices(const void* const* in, void* const* out, bool transposed) {
  for (int m = 0; m < 4; ++m)
    for (int lane = 0; lane < 32; ++lane) {
      std::uint16_t pair[2];
      for (int h = 0; h < 2; ++h) {
        const int row = transposed ? lane % 4 * 2 + h : lane / 4;
        const int column = transposed ? lane / 4 : lane % 4 * 2 + h;
        pair[h] = static_cast<const std::uint16_t*>(in[m * 8 + row])[column];
      }
      static_cast<std::uint32_t*>(out[lane])[m] = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
    }
}
void run_matrices_plain(const void* const* in, void* const* out) { run_matrices(in, out, false); }
void run_matrices_transposed(const void* const* in, void* const* out) { run_matrices(in, out, true); }

struct WarpgroupIn {
  const std::uint32_t* a;
  std::uint64_t a_descriptor, b_descriptor;
  float* value;  // [32], the accumulators
  bool accumulate;
  MmaType type;
};

/// Element of a core-matrix operand: `k` along the leading distance, `i` along the stride distance.
float core_element(std::uint64_t descriptor, int k, int i, bool k_contiguous, MmaType type) {
  const int start = static_cast<int>(descriptor & 0x3fff) << 4;
  const int leading = static_cast<int>(descriptor >> 16 & 0x3fff) << 4;
  const int stride = static_cast<int>(descriptor >> 32 & 0x3fff) << 4;
  const int inner = k_contiguous ? i % 8 * 16 + k % 8 * 2 : k % 8 * 16 + i % 8 * 2;
  const char* at = shared + start + k / 8 * leading + i / 8 * stride + inner;
  check_shared(at, 2, 2, "wgmma operand");
  annotate_read(at, 2);
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  return type == MmaType::kHalf ? from_half(bits) : from_bfloat16(bits);
}

void run_warpgroup(const void* const* in, void* const*) {
  for (int l = 0; l < threads; ++l)
    if (fibers[l].unpublished) fail("wgmma reads shared memory that was written without a proxy fence");
  const WarpgroupIn& first = *static_cast<const WarpgroupIn*>(in[0]);
  static float a[64][16], b[16][64];
  for (int i = 0; i < 64; ++i)
    for (int k = 0; k < 16; ++k) {
      if (first.a == nullptr) {
        a[i][k] = core_element(first.a_descriptor, k, i, true, first.type);
      } else {
        const int lane = i / 16 * 32 + i % 8 * 4 + k % 8 / 2, r = i % 16 / 8 + k / 8 * 2;
        const std::uint16_t bits =
            static_cast<std::uint16_t>(static_cast<const WarpgroupIn*>(in[lane])->a[r] >> (16 * (k % 2)));
        a[i][k] = first.type == MmaType::kHalf ? from_half(bits) : from_bfloat16(bits);
      }
    }
  for (int k = 0; k < 16; ++k)
    for (int j = 0; j < 64; ++j) b[k][j] = core_element(first.b_descriptor, k, j, first.a == nullptr, first.type);
  for (int lane = 0; lane < 128; ++lane) {
    const WarpgroupIn& x = *static_cast<const WarpgroupIn*>(in[lane]);
    if (x.a_descriptor != first.a_descriptor || x.b_descriptor != first.b_descriptor)
      fail("wgmma: descriptors differ in the warpgroup");
    for (int e = 0; e < 32; ++e) {
      const int i = lane / 32 * 16 + lane % 32 / 4 + e % 4 / 2 * 8, j = e / 4 * 8 + lane % 4 * 2 + e % 2;
      double sum = 0;
      for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[i][k]) * b[k][j];
      x.value[e] = (x.accumulate ? x.value[e] : 0.0f) + static_cast<float>(sum);
    }
  }
}

struct ShuffleIn {
  float value;
  int mask;
};
void run_shuffle(const void* const* in, void* const* out) {
  for (int lane = 0; lane < 32; ++lane)
    *static_cast<float*>(out[lane]) =
        static_cast<const ShuffleIn*>(in[lane ^ static_cast<const ShuffleIn*>(in[lane])->mask])->value;
}

}  // namespace

void set_order(int order_) { order = order_; }

const char* message() { return failure.c_str(); }

void barrier() {
  const unsigned generation = barrier_generation;
#if defined(LAPAROFLOW_TSAN)
  __tsan_release(&barrier_generation);
#endif
  if (live != threads) fail("barrier after a thread of the block has ended");
  if (++barrier_arrived == threads) {
    barrier_arrived = 0;
    ++barrier_generation;
    idle = 0;
  } else {
    while (barrier_generation == generation) yield();
  }
#if defined(LAPAROFLOW_TSAN)
  __tsan_acquire(&barrier_generation);
#endif
}

void stop() { fail("the kernel was built without its engine"); }

float shuffle_xor(float value, int lane_mask) {
  const ShuffleIn in{value, lane_mask};
  float out;
  collective(1, &in, &out, run_shuffle);
  return out;
}

void load_matrices(std::uint32_t (&r)[4], const void* row, bool transposed) {
  check_shared(row, 16, 16, "ldmatrix");
  annotate_read(row, 16);
  collective(transposed ? 3 : 2, row, r, transposed ? run_matrices_transposed : run_matrices_plain);
}

void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, MmaType type) {
  const MmaIn in{a, {b0, b1}, c, type};
  collective(4 + static_cast<int>(type), &in, c, run_mma);
}

std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const char*>(pointer) - shared);
}

void publish() { fibers[thread].unpublished = false; }
void warpgroup_fence() { fibers[thread].fenced = true; }
void warpgroup_commit() {}

void warpgroup_wait() {
  for (const Product& product : fibers[thread].products) std::memcpy(product.to, product.value, sizeof product.value);
  fibers[thread].products.clear();
  fibers[thread].fenced = false;
}

void warpgroup_multiply(float* d, const std::uint32_t* a, std::uint64_t a_descriptor, std::uint64_t b_descriptor,
                        bool accumulate, MmaType type) {
  Fiber& self = fibers[thread];
  if (!self.fenced) fail("wgmma without a fence before it");
  Product* product = nullptr;
  for (Product& p : self.products)
    if (p.to == d) product = &p;
  if (product == nullptr) {
    self.products.push_back({d, {}});
    product = &self.products.back();
    std::memcpy(product->value, d, sizeof product->value);
  }
  const WarpgroupIn in{a, a_descriptor, b_descriptor, product->value, accumulate, type};
  collective(8 + static_cast<int>(type), &in, nullptr, run_warpgroup, 128);
}

void copy_async(void* to, const void* from, bool valid) {
  check_shared(to, 16, 16, "cp.async");
  if (valid && reinterpret_cast<std::uintptr_t>(from) % 16 != 0) fail("cp.async: global address not aligned");
  fibers[thread].open.push_back({static_cast<char*>(to), static_cast<const char*>(from), valid});
}

void copy_async_commit() {
  Fiber& self = fibers[thread];
  self.groups.push_back(std::move(self.open));
  self.open.clear();
}

void copy_async_wait(int pending) {
  Fiber& self = fibers[thread];
  while (static_cast<int>(self.groups.size()) > pending) {
    for (const Copy& copy : self.groups.front()) {
      annotate_write(copy.to, 16);
      if (copy.valid) {
        annotate_read(copy.from, 16);
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
    self.groups.erase(self.groups.begin());
    self.unpublished = true;
  }
}

std::uint16_t to_bfloat16(float x) {
  const std::uint32_t bits = DeviceMath::to_bits(x);
  if (std::isnan(x)) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

std::uint16_t to_half(float x) {
  const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float y = std::fabs(x);
  if (std::isnan(x)) return 0x7fff;
  if (y >= 65520.0f) return sign | 0x7c00;
  if (y < 6.103515625e-05f) return sign | static_cast<std::uint16_t>(std::nearbyint(std::ldexp(y, 24)));
  int exponent;
  const float fraction = std::frexp(y, &exponent);  // in [0.5, 1)
  const int mantissa = static_cast<int>(std::nearbyint(std::ldexp(fraction, 11)));  // in [1024, 2048]
  return sign | static_cast<std::uint16_t>(((exponent + 14) << 10) + mantissa - 1024);
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
    char* memory = static_cast<char*>(std::aligned_alloc(128, (size + 127) / 128 * 128));
    std::memset(memory, 0xff, size);
    shared = memory;
#if defined(LAPAROFLOW_ASAN)
    ASAN_POISON_MEMORY_REGION(memory + bytes, size - bytes);
#endif
#if defined(LAPAROFLOW_TSAN)
    __tsan_write_range(memory, size);
    __tsan_release(&barrier_generation);
#endif
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
