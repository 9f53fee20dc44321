// What the parts of the simulator share: simulator.cpp runs the fibers, simulator_warp.cpp holds the collectives of a
// warp, simulator_async.cpp the copies beside the threads and their barriers, simulator_warpgroup.cpp products and
// registers of a warpgroup.
#pragma once

#include <cstdint>
#include <string>

#include "host_instructions.h"

#if defined(LAPAROFLOW_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void*);
void __tsan_release(void*);
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
}
#endif

namespace laparoflow::cuda::simulator {

constexpr int kMaxThreads = 1024;
extern int shared_bytes;

/// Ends the launch with a message; the fibers are abandoned where they stand.
[[noreturn]] void fail(const std::string& what);
/// Lets the next unfinished thread run. A round in which nobody reports `progress` is a deadlock.
void yield();
void progress();

/// Meets the other lanes of the warp (or warpgroup); the last to come runs `run` over all lanes' arguments.
void collective(int operation, const void* in, void* out, void (*run)(const void* const*, void* const*), int lanes = 32);

void check_shared(const void* at, int bytes, int alignment, const char* what);
float from_16_bits(std::uint16_t x, MmaType type);
/// A sum as the tensor core leaves it in an accumulator: what does not fit is cut off, toward zero.
float cut_off(double x);

/// Copies, products, registers and barriers of the block that begins; of a thread that ends (an error if any are in flight).
void begin_async();
void end_async_of_thread();
/// Moves one bulk copy, if there is one, as nothing else can go on.
bool move_any_copy();
bool copies_in_flight();
void begin_warpgroups();
void end_warpgroups_of_thread();
/// This thread has written shared memory that wgmma cannot see before it is published.
void written_for_products(const void* at);

// What ThreadSanitizer is told; nothing without it.
inline void annotate_read([[maybe_unused]] const void* at, [[maybe_unused]] std::size_t bytes) {
#if defined(LAPAROFLOW_TSAN)
  __tsan_read_range(const_cast<void*>(at), bytes);
#endif
}
inline void annotate_write([[maybe_unused]] void* at, [[maybe_unused]] std::size_t bytes) {
#if defined(LAPAROFLOW_TSAN)
  __tsan_write_range(at, bytes);
#endif
}
inline void annotate_acquire([[maybe_unused]] void* at) {
#if defined(LAPAROFLOW_TSAN)
  __tsan_acquire(at);
#endif
}
inline void annotate_release([[maybe_unused]] void* at) {
#if defined(LAPAROFLOW_TSAN)
  __tsan_release(at);
#endif
}

}  // namespace laparoflow::cuda::simulator
