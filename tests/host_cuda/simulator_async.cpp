// Copies that run beside the threads of a block (cp.async, bulk copies), mbarriers and named barriers.
//
// A copy takes from its issue to its end, the longest time that the rules allow: its destination is poisoned (NaN) when it
// is issued, so that whoever still reads what was there shows, and gets its bytes when they are waited for, so that whoever
// reads too early shows as well. cp.async ends when its group is waited for, a bulk copy when a thread waits for a
// barrier that lacks nothing but bytes, or when no thread can go on. For ThreadSanitizer the issue is a write of the
// issuing thread, and the bytes are written by a thread of their own, which the issuing thread happens before and which
// releases the barrier.
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "cuda/sm90a/instructions.cuh"
#include "simulator.h"

namespace laparoflow::cuda::simulator {

namespace {

struct Copy {
  char* to;
  const char* from;
  bool valid;
};

struct CopyGroups {
  std::vector<std::vector<Copy>> committed;  // oldest first
  std::vector<Copy> open;
};

struct PhaseBarrier {
  int count = 0, pending = 0;
  long bytes = 0;
  unsigned phase = 0;
  int maker = 0;           // the thread that initialised it,
  bool published = false;  // and whether bulk copies can see that
};

struct BulkCopy {
  char* to;
  const char* from;
  int bytes;
  Barrier* barrier;
};

CopyGroups groups_of[kMaxThreads];
std::map<const Barrier*, PhaseBarrier> barriers;
BulkCopy bulk_copies[64];  // oldest first; no allocation that one fiber makes and another frees
int bulk_count = 0;
std::map<int, std::pair<int, unsigned>> named;  // id: threads that have come, generation
[[maybe_unused]] void* copy_engine = nullptr;

PhaseBarrier& barrier_at(const Barrier* barrier) {
  check_shared(barrier, 8, 8, "mbarrier");
  const auto found = barriers.find(barrier);
  if (found == barriers.end()) fail("mbarrier: not initialised");
  annotate_read(barrier, 8);
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

/// Nobody may read any more what the copy overwrites, and nobody may read yet what it brings.
void poison(void* to, std::size_t bytes) {
  annotate_write(to, bytes);
  std::memset(to, 0xff, bytes);
}

}  // namespace

void begin_async() {
  for (CopyGroups& groups : groups_of) groups = CopyGroups();
  barriers.clear();
  bulk_count = 0;
  named.clear();
  begin_warpgroups();
}

void end_async_of_thread() {
  const CopyGroups& self = groups_of[thread];
  if (!self.open.empty() || !self.committed.empty()) fail("a thread ended with copies in flight");
  end_warpgroups_of_thread();
}

bool move_any_copy() { return move_copies(nullptr); }
bool copies_in_flight() { return bulk_count > 0; }

void copy_async(void* to, const void* from, bool valid) {
  check_shared(to, 16, 16, "cp.async");
  if (valid && reinterpret_cast<std::uintptr_t>(from) % 16 != 0) fail("cp.async: global address not aligned");
  poison(to, 16);
  groups_of[thread].open.push_back({static_cast<char*>(to), static_cast<const char*>(from), valid});
}

void copy_async_commit() {
  CopyGroups& self = groups_of[thread];
  self.committed.push_back(std::move(self.open));
  self.open.clear();
}

void copy_async_wait(int pending) {
  CopyGroups& self = groups_of[thread];
  while (static_cast<int>(self.committed.size()) > pending) {
    for (const Copy& copy : self.committed.front()) {
      annotate_write(copy.to, 16);
      if (copy.valid) {
        annotate_read(copy.from, 16);
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
      written_for_products(copy.to);
    }
    self.committed.erase(self.committed.begin());
  }
}

void barrier_init(Barrier* barrier, int count) {
  check_shared(barrier, 8, 8, "mbarrier");
  if (count < 1) fail("mbarrier: a count below 1");
  annotate_write(barrier, 8);
  barriers[barrier] = {count, count, 0, 0, thread, false};
}

void barrier_init_publish() {
  for (auto& [at, barrier] : barriers) barrier.published |= barrier.maker == thread;
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
  if (!barrier_at(barrier).published) fail("bulk copy: its barrier was initialised without a fence");
  poison(to, bytes);
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
