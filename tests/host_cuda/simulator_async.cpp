// What runs beside the threads of a block: cp.async, bulk copies and mbarriers, warpgroup products.
//
// All of it is as late as the rules allow. A cp.async copy moves its bytes when its group is waited for. A bulk copy
// moves them only when a thread waits for a barrier that lacks nothing but bytes, or when no thread can go on; so a
// barrier that does not wait for the bytes lets its reader see the poison. Accumulators of wgmma are written when they
// are waited for. For ThreadSanitizer the copies are made by a thread of their own, which the issuing thread
// happens before and which releases the barrier.
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "host_instructions_sm90a.h"
#include "simulator.h"

namespace laparoflow::cuda::simulator {

namespace {

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

struct AsyncState {
  std::vector<std::vector<Copy>> groups;  // cp.async groups that are committed, oldest first
  std::vector<Copy> open;
  bool unpublished = false;       // shared memory was written that wgmma cannot see yet
  std::vector<Product> products;  // accumulators under way
  bool fenced = false;
};

struct PhaseBarrier {
  int count = 0, pending = 0;
  long bytes = 0;
  unsigned phase = 0;
};

struct BulkCopy {
  char* to;
  const char* from;
  int bytes;
  Barrier* barrier;
};

AsyncState states[kMaxThreads];
std::map<const Barrier*, PhaseBarrier> barriers;
BulkCopy bulk_copies[64];  // oldest first; no allocation that one fiber makes and another frees
int bulk_count = 0;
std::map<int, std::pair<int, unsigned>> named;  // id: threads that have come, generation
[[maybe_unused]] void* copy_engine = nullptr;

PhaseBarrier& barrier_at(const Barrier* barrier) {
  check_shared(barrier, 8, 8, "mbarrier");
  const auto found = barriers.find(barrier);
  if (found == barriers.end()) fail("mbarrier: not initialised");
  return found->second;
}

void complete(PhaseBarrier& barrier) {
  if (barrier.pending < 0) fail("mbarrier: more arrivals than its count");
  if (barrier.bytes < 0 && barrier.pending == 0) fail("mbarrier: more bytes than were announced");
  if (barrier.pending == 0 && barrier.bytes == 0) {
    barrier.pending = barrier.count;
    ++barrier.phase;
  }
  progress();
}

void move(const BulkCopy& copy) {
#if defined(LAPAROFLOW_TSAN)
  void* self = __tsan_get_current_fiber();
  if (copy_engine == nullptr) copy_engine = __tsan_create_fiber(0);
  __tsan_switch_to_fiber(copy_engine, 1);
  __tsan_acquire(const_cast<char*>(copy.from));
#endif
  annotate_read(copy.from, copy.bytes);
  annotate_write(copy.to, copy.bytes);
  std::memcpy(copy.to, copy.from, copy.bytes);
#if defined(LAPAROFLOW_TSAN)
  __tsan_release(copy.barrier);
  __tsan_switch_to_fiber(self, 1);
#endif
  PhaseBarrier& barrier = barrier_at(copy.barrier);
  barrier.bytes -= copy.bytes;
  complete(barrier);
}

/// Moves the copies that `barrier` waits for (null: the oldest copy of all). Returns whether any moved.
bool move_copies(const Barrier* barrier) {
  for (int i = 0; i < bulk_count; ++i) {
    if (barrier != nullptr && bulk_copies[i].barrier != barrier) continue;
    const BulkCopy copy = bulk_copies[i];
    --bulk_count;
    for (int j = i; j < bulk_count; ++j) bulk_copies[j] = bulk_copies[j + 1];
    move(copy);
    return true;
  }
  return false;
}

struct WarpgroupIn {
  const std::uint32_t* a;
  std::uint64_t a_descriptor, b_descriptor;
  float* value;  // [32], the accumulators
  bool k_contiguous;
  bool accumulate;
  MmaType type;
};

/// Element of an operand in 128-byte swizzle: `k` along the summed index, `i` along the other.
float operand_element(std::uint64_t descriptor, int k, int i, bool k_contiguous, MmaType type) {
  if (descriptor >> 62 != 1) fail("wgmma operand: not in 128-byte swizzle");
  const int start = static_cast<int>(descriptor & 0x3fff) << 4;
  const int leading = static_cast<int>(descriptor >> 16 & 0x3fff) << 4;
  const int stride = static_cast<int>(descriptor >> 32 & 0x3fff) << 4;
  const int logical =
      k_contiguous ? i / 8 * stride + i % 8 * 128 + k * 2 : i / 64 * leading + k / 8 * stride + k % 8 * 128 + i % 64 * 2;
  const int address = start + logical;
  const char* at = shared + (address ^ ((address >> 7 & 7) << 4));
  check_shared(at, 2, 2, "wgmma operand");
  annotate_read(at, 2);
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  return from_16_bits(bits, type);
}

void run_warpgroup(const void* const* in, void* const*) {
  for (int l = 0; l < threads; ++l)
    if (states[l].unpublished) fail("wgmma reads shared memory that was written without a proxy fence");
  const WarpgroupIn& first = *static_cast<const WarpgroupIn*>(in[0]);
  static float a[64][16], b[16][64];
  for (int i = 0; i < 64; ++i)
    for (int k = 0; k < 16; ++k) {
      if (first.a == nullptr) {
        a[i][k] = operand_element(first.a_descriptor, k, i, first.k_contiguous, first.type);
      } else {
        const int lane = i / 16 * 32 + i % 8 * 4 + k % 8 / 2, r = i % 16 / 8 + k / 8 * 2;
        const std::uint16_t bits =
            static_cast<std::uint16_t>(static_cast<const WarpgroupIn*>(in[lane])->a[r] >> (16 * (k % 2)));
        a[i][k] = from_16_bits(bits, first.type);
      }
    }
  for (int k = 0; k < 16; ++k)
    for (int j = 0; j < 64; ++j) b[k][j] = operand_element(first.b_descriptor, k, j, first.k_contiguous, first.type);
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

}  // namespace

void begin_async() {
  for (AsyncState& state : states) state = AsyncState();
  barriers.clear();
  bulk_count = 0;
  named.clear();
}

void end_async_of_thread() {
  const AsyncState& self = states[thread];
  if (!self.open.empty() || !self.groups.empty()) fail("a thread ended with copies in flight");
  if (!self.products.empty()) fail("a thread ended with products in flight");
}

bool move_any_copy() { return move_copies(nullptr); }
bool copies_in_flight() { return bulk_count > 0; }

void publish() { states[thread].unpublished = false; }
void store_for_products(void* to, std::uint32_t value) {
  check_shared(to, 4, 4, "store");
  annotate_write(to, 4);
  std::memcpy(to, &value, 4);
  states[thread].unpublished = true;
}
void warpgroup_fence() { states[thread].fenced = true; }
void warpgroup_commit() {}

void warpgroup_wait() {
  for (const Product& product : states[thread].products) std::memcpy(product.to, product.value, sizeof product.value);
  states[thread].products.clear();
  states[thread].fenced = false;
}

void warpgroup_multiply(float* d, const std::uint32_t* a, std::uint64_t a_descriptor, std::uint64_t b_descriptor,
                        bool k_contiguous, bool accumulate, MmaType type) {
  AsyncState& self = states[thread];
  if (!self.fenced) fail("wgmma without a fence before it");
  Product* product = nullptr;
  for (Product& p : self.products)
    if (p.to == d) product = &p;
  if (product == nullptr) {
    self.products.push_back({d, {}});
    product = &self.products.back();
    std::memcpy(product->value, d, sizeof product->value);
  }
  const WarpgroupIn in{a, a_descriptor, b_descriptor, product->value, k_contiguous, accumulate, type};
  collective(8 + static_cast<int>(type), &in, nullptr, run_warpgroup, 128);
}

void copy_async(void* to, const void* from, bool valid) {
  check_shared(to, 16, 16, "cp.async");
  if (valid && reinterpret_cast<std::uintptr_t>(from) % 16 != 0) fail("cp.async: global address not aligned");
  states[thread].open.push_back({static_cast<char*>(to), static_cast<const char*>(from), valid});
}

void copy_async_commit() {
  AsyncState& self = states[thread];
  self.groups.push_back(std::move(self.open));
  self.open.clear();
}

void copy_async_wait(int pending) {
  AsyncState& self = states[thread];
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

void barrier_init(Barrier* barrier, int count) {
  check_shared(barrier, 8, 8, "mbarrier");
  if (count < 1) fail("mbarrier: a count below 1");
  barriers[barrier] = {count, count, 0, 0};
}

void barrier_arrive(Barrier* barrier, int bytes) {
  PhaseBarrier& b = barrier_at(barrier);
  annotate_release(barrier);
  b.bytes += bytes;
  --b.pending;
  complete(b);
}

void barrier_wait(Barrier* barrier, unsigned parity) {
  while ((barrier_at(barrier).phase & 1) == (parity & 1)) {
    const PhaseBarrier& b = barrier_at(barrier);
    if (b.pending > 0 || b.bytes == 0 || !move_copies(barrier)) yield();
  }
  annotate_acquire(barrier);
}

void bulk_copy(void* to, const void* from, int bytes, Barrier* barrier) {
  check_shared(to, bytes, 16, "bulk copy");
  if (bytes % 16 != 0) fail("bulk copy: size not a multiple of 16");
  if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) fail("bulk copy: global address not aligned");
  barrier_at(barrier);
  annotate_release(const_cast<void*>(from));
  if (bulk_count == 64) fail("bulk copy: more than 64 in flight");
  bulk_copies[bulk_count++] = {static_cast<char*>(to), static_cast<const char*>(from), bytes, barrier};
}

void named_barrier(int id, int count) {
  if (id < 1 || id > 15 || count % 32 != 0) fail("named barrier: id or count out of range");
  auto& [come, generation] = named[id];
  annotate_release(&come);
  const unsigned mine = generation;
  if (++come == count) {
    come = 0;
    ++generation;
    progress();
  } else {
    while (generation == mine) yield();
  }
  annotate_acquire(&come);
}

}  // namespace laparoflow::cuda::simulator
