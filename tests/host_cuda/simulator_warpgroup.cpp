// What a warpgroup (128 threads) does together: products (wgmma) and its share of the registers (setmaxnreg).
//
// A product takes from its issue to the wait for its group, the longest time that the rules allow: its accumulators are
// poisoned (NaN) when it is issued and written when they are waited for, and its operands in shared memory must be the
// same at both times. Registers move between the warpgroups of a block: who raises its share waits until another has
// lowered its own. How many there are is known to the compiler alone (test_host_compiled.py).
#include <cstring>
#include <string>
#include <vector>

#include "cuda/sm90a/instructions.cuh"
#include "simulator.h"

namespace laparoflow::cuda::simulator {

namespace {

constexpr int kLanes = 128, kMostReads = 64;
constexpr std::uint32_t kPoison = 0xffffffffu;

struct Operands {
  std::uint16_t a[64][16], b[16][64];  // `a` only when it is in shared memory
};

struct Issue {
  const std::uint32_t* a;
  std::uint64_t a_descriptor, b_descriptor;
  float* value;  // [32], the sums
  bool k_contiguous, accumulate;
  MmaType type;
};

/// Sums on their way to the accumulators.
struct Product {
  float* to;
  float value[32];
  bool committed;
};

struct ThreadState {
  std::vector<int> unpublished;  // pieces of 16 bytes of shared memory that it wrote and wgmma cannot see yet
  bool fenced = false;
  std::vector<Product> products;
};

/// What a product has read, until it is waited for.
struct Read {
  Issue issue;
  Operands operands;
};

/// Those of one warpgroup, and whether it has changed its share of the registers.
struct Group {
  Read reads[kMostReads];  // no allocation that one fiber makes and another frees
  int count;
  bool changed;
};

ThreadState states[kMaxThreads];
std::uint8_t unpublished[256 * 1024 / 16];
Group groups[kMaxThreads / kLanes];
bool registers_are_free;

bool is_plain(std::uint64_t descriptor) { return descriptor >> 62 == 0; }

/// Element of an operand, in 128-byte swizzle or plain: `k` along the summed index, `i` along the other.
std::uint16_t operand_element(std::uint64_t descriptor, int k, int i, bool k_contiguous) {
  const int start = static_cast<int>(descriptor & 0x3fff) << 4;
  const int leading = static_cast<int>(descriptor >> 16 & 0x3fff) << 4;
  const int stride = static_cast<int>(descriptor >> 32 & 0x3fff) << 4;
  const int plain = i / 8 * stride + i % 8 * 16 + k / 8 * leading + k % 8 * 2;
  const int logical =
      k_contiguous ? i / 8 * stride + i % 8 * 128 + k * 2 : i / 64 * leading + k / 8 * stride + k % 8 * 128 + i % 64 * 2;
  const int address = start + (is_plain(descriptor) ? plain : logical);
  const char* at = shared + (is_plain(descriptor) ? address : address ^ ((address >> 7 & 7) << 4));
  check_shared(at, 2, 2, "wgmma operand");
  if (unpublished[(at - shared) / 16]) fail("wgmma reads shared memory that was written without a proxy fence");
  annotate_read(at, 2);
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  return bits;
}

void check_descriptor(std::uint64_t descriptor, bool k_contiguous) {
  if (is_plain(descriptor) && k_contiguous) return;
  if (descriptor >> 62 != 1) fail("wgmma operand: neither plain along k nor in 128-byte swizzle");
  if (descriptor >> 49 & 7) fail("wgmma operand: a base offset, which no operand here needs");
  const int in_group = static_cast<int>(descriptor & 0x3fff) << 4 & 1023;
  if (in_group != 0 && !(k_contiguous && in_group < 128 && in_group % 32 == 0))
    fail("wgmma operand: does not start where a group of 8 rows does");
}

void read_operands(const Issue& issue, Operands& to) {
  for (int k = 0; k < 16; ++k)
    for (int i = 0; i < 64; ++i) {
      if (issue.a == nullptr) to.a[i][k] = operand_element(issue.a_descriptor, k, i, issue.k_contiguous);
      to.b[k][i] = operand_element(issue.b_descriptor, k, i, issue.k_contiguous);
    }
}

void run_product(const void* const* in, void* const*) {
  const Issue& first = *static_cast<const Issue*>(in[0]);
  check_descriptor(first.b_descriptor, first.k_contiguous);
  if (first.a == nullptr) check_descriptor(first.a_descriptor, first.k_contiguous);
  Group& group = groups[thread / kLanes];
  if (group.count == kMostReads) fail("wgmma: more products under way than the simulator holds");
  Read& read = group.reads[group.count++];
  read.issue = first;
  Operands& operands = read.operands;
  read_operands(first, operands);
  static float a[64][16], b[16][64];
  for (int i = 0; i < 64; ++i)
    for (int k = 0; k < 16; ++k) {
      if (first.a != nullptr) {
        const int lane = i / 16 * 32 + i % 8 * 4 + k % 8 / 2, r = i % 16 / 8 + k / 8 * 2;
        operands.a[i][k] = static_cast<std::uint16_t>(static_cast<const Issue*>(in[lane])->a[r] >> (16 * (k % 2)));
      }
      a[i][k] = from_16_bits(operands.a[i][k], first.type);
      b[k][i] = from_16_bits(operands.b[k][i], first.type);
    }
  for (int lane = 0; lane < kLanes; ++lane) {
    const Issue& x = *static_cast<const Issue*>(in[lane]);
    if (x.a_descriptor != first.a_descriptor || x.b_descriptor != first.b_descriptor)
      fail("wgmma: descriptors differ in the warpgroup");
    for (int e = 0; e < 32; ++e) {
      const int i = lane / 32 * 16 + lane % 32 / 4 + e % 4 / 2 * 8, j = e / 4 * 8 + lane % 4 * 2 + e % 2;
      double sum = 0;
      for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[i][k]) * b[k][j];
      x.value[e] = cut_off((x.accumulate ? x.value[e] : 0.0f) + sum);
    }
  }
}

/// The first thread of a warpgroup to wait for its products looks whether their operands are still there.
void end_reads(Group& group) {
  for (; group.count > 0; --group.count) {
    const Read& read = group.reads[group.count - 1];
    Operands now = read.operands;
    read_operands(read.issue, now);
    if (std::memcmp(&now, &read.operands, sizeof now) != 0) fail("wgmma: an operand changed before the product was done");
  }
}

}  // namespace

void begin_warpgroups() {
  for (ThreadState& state : states) state = ThreadState();
  std::memset(unpublished, 0, sizeof unpublished);
  for (Group& group : groups) group.count = 0, group.changed = false;
  registers_are_free = false;
}

void end_warpgroups_of_thread() {
  if (!states[thread].products.empty()) fail("a thread ended with products in flight");
}

void written_for_products(const void* at) {
  const int piece = static_cast<int>((static_cast<const char*>(at) - shared) / 16);
  unpublished[piece] = 1;
  states[thread].unpublished.push_back(piece);
}
void publish() {
  for (const int piece : states[thread].unpublished) unpublished[piece] = 0;
  states[thread].unpublished.clear();
}

struct MatricesIn {
  char* row;
  const std::uint32_t* r;
};
void store_matrices(void* row, const std::uint32_t (&r)[4]) {
  check_shared(row, 16, 16, "stmatrix");
  annotate_write(row, 16);
  const MatricesIn in{static_cast<char*>(row), r};
  const auto run = [](const void* const* lanes, void* const*) {
    for (int m = 0; m < 4; ++m)
      for (int lane = 0; lane < 32; ++lane)
        std::memcpy(static_cast<const MatricesIn*>(lanes[m * 8 + lane / 4])->row + lane % 4 * 4,
                    &static_cast<const MatricesIn*>(lanes[lane])->r[m], 4);
  };
  collective(18, &in, nullptr, run);
  written_for_products(row);
}
void warpgroup_fence() { states[thread].fenced = true; }
void warpgroup_commit() {
  for (Product& product : states[thread].products) product.committed = true;
}

void warpgroup_wait() {
  ThreadState& self = states[thread];
  std::vector<Product> rest;
  for (const Product& product : self.products) {
    if (!product.committed) {
      rest.push_back(product);
      continue;
    }
    for (int e = 0; e < 32; ++e)
      if (DeviceMath::to_bits(product.to[e]) != kPoison)
        fail("wgmma: an accumulator was written before its product was done");
    std::memcpy(product.to, product.value, sizeof product.value);
  }
  self.products = rest;
  self.fenced = false;
  end_reads(groups[thread / kLanes]);
}

void warpgroup_multiply(float* d, const std::uint32_t* a, std::uint64_t a_descriptor, std::uint64_t b_descriptor,
                        bool k_contiguous, bool accumulate, MmaType type) {
  ThreadState& self = states[thread];
  if (!self.fenced) fail("wgmma without a fence before it");
  Product* product = nullptr;
  for (Product& p : self.products)
    if (p.to == d) product = &p;
  if (product == nullptr) {
    self.products.push_back({d, {}, false});
    product = &self.products.back();
    std::memcpy(product->value, d, sizeof product->value);
    std::memset(d, 0xff, sizeof product->value);
  }
  product->committed = false;
  const Issue issue{a, a_descriptor, b_descriptor, product->value, k_contiguous, accumulate, type};
  collective(8 + static_cast<int>(type), &issue, nullptr, run_product, kLanes);
}

std::uint32_t same_in_warp(std::uint32_t x) {
  // read as numbers: ThreadSanitizer sees calls of memcmp even in the simulator, which is compiled without it
  const auto compare = [](const void* const* in, void* const*) {
    const auto value = [in](int l) { return *static_cast<const std::uint32_t*>(in[l]); };
    for (int l = 1; l < 32; ++l)
      if (value(l) != value(0)) fail("a value that is not the same in the warp");
  };
  collective(7, &x, nullptr, compare);
  return x;
}

void change_registers(int count, bool raise) {
  if (count % 8 != 0 || count < 24 || count > 256) fail("setmaxnreg: not a multiple of 8 from 24 to 256");
  const auto nothing = [](const void* const*, void* const*) {};
  collective(raise ? 16 : 17, nullptr, nullptr, nothing, kLanes);
  Group& group = groups[thread / kLanes];
  if (thread % kLanes == 0) {
    if (group.changed) fail("setmaxnreg: a second time");
    group.changed = true;
    registers_are_free |= !raise;
    progress();
  }
  while (!registers_are_free) yield();
}

}  // namespace laparoflow::cuda::simulator
