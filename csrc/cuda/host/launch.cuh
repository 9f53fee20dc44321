// Plans (how a problem is cut into blocks) and the launches of one engine's kernels.
// The engines are instantiated in kernels_*.cu, one file each, so that they compile side by side; what an architecture adds,
// its kernels.cuh has: Kernels<Engine>, which says what kernel serves a problem.
#pragma once

#include <algorithm>

#include "../common/backward.cuh"
#include "../common/feed.cuh"
#include "../common/forward.cuh"

namespace laparoflow::cuda {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// The kernels of an engine: for each problem a function to launch, how much a block computes, and shared memory for dS.
template <class Engine>
struct Kernels;

/// Fits the tiles into the device's shared memory: first with fewer stages, then with fewer warps; `extra(warps)` is
/// what the kernel needs beside its feed. plan.warps is 0 when nothing fits.
template <class Engine, class Plan, class Extra>
void fit_shared_memory(Plan& plan, const Problem& p, const DeviceLimits& device, int row_tiles, int coefficients,
                       Extra extra) {
  const DepthLayout<Engine> layout(p.depth);
  for (; plan.warps >= Engine::kFewestWarps; plan.warps -= plan.warps > 4 ? 4 : (plan.warps + 1) / 2)
    for (plan.stages = Feed<Engine>::kMostStages; plan.stages >= Engine::kFewestStages; --plan.stages) {
      plan.feed_bytes =
          Feed<Engine>::bytes(plan.warps * 16 * row_tiles, plan.stages, layout.padded, p.flow_width, coefficients);
      plan.feed_bytes = (plan.feed_bytes + 15) / 16 * 16;
      plan.shared_bytes = plan.feed_bytes + extra(plan.warps);
      if (plan.shared_bytes <= device.shared_memory) return;
    }
  plan.warps = 0;
}

/// The records of both sides in the workspace at `memory`, rows first; none where the feed copies from the inputs.
template <class Engine>
void place_records(const Problem& p, int coefficients, char* memory, Records& rows, Records& columns) {
  if (Feed<Engine>::kProducerThreads == 0) return;
  const DepthLayout<Engine> layout(p.depth);
  rows.bytes = columns.bytes = Feed<Engine>::record_bytes(layout.padded, p.flow_width, coefficients);
  rows.slots = slot_count(p.row, p.frames);
  columns.slots = slot_count(p.column, p.frames);
  rows.data = memory;
  columns.data = rows.data + (rows.slots + 1) * rows.bytes;
}
template <class Engine>
std::size_t records_space(const Problem& p, int coefficients) {
  Records rows, columns;
  place_records<Engine>(p, coefficients, nullptr, rows, columns);
  if (rows.bytes == 0) return 0;
  return static_cast<std::size_t>((rows.slots + 1) * rows.bytes + (columns.slots + 1) * columns.bytes);
}

/// How `groups` of row_tiles x column_tiles are cut into rectangles, one a block, of which `slots` run at a time.
struct Cut {
  std::int64_t groups = 1, row_tiles = 1, column_tiles = 1, slots = 1;
  std::int64_t row_chunk = 1, column_chunk = 1;  // tiles in a rectangle

  std::int64_t column_chunks() const { return std::max<std::int64_t>(1, ceil_div(column_tiles, column_chunk)); }
  std::int64_t waves() const { return ceil_div(groups * ceil_div(row_tiles, row_chunk) * column_chunks(), slots); }

  /// The rectangles that are done the soonest: columns in up to `most` chunks, and if `rows` may be chunked, these, too.
  /// Beside its tiles a block costs as much as `fixed` column tiles, and `split` more where columns are in chunks.
  void choose(bool rows, std::int64_t most, std::int64_t fixed, std::int64_t split) {
    Cut best = *this;
    double shortest = -1.0;
    for (std::int64_t r = 1; r <= (rows ? most : 1); ++r)
      for (std::int64_t c = 1; c <= most; ++c) {
        Cut cut = *this;
        cut.row_chunk = rows ? std::max<std::int64_t>(1, ceil_div(row_tiles, r)) : 1;
        cut.column_chunk = std::max<std::int64_t>(1, ceil_div(column_tiles, c));
        const double time = static_cast<double>(cut.waves()) * static_cast<double>(cut.row_chunk) *
                            static_cast<double>(cut.column_chunk + fixed + (c > 1 ? split : 0));
        if (shortest >= 0.0 && time >= shortest) continue;
        shortest = time;
        best = cut;
      }
    *this = best;
  }
};

inline std::int64_t blocks_in_flight(const DeviceLimits& device, int shared_bytes, int blocks) {
  const int fitting = std::max(1, device.shared_memory / std::max(1, shared_bytes));
  return static_cast<std::int64_t>(device.multiprocessors) * std::min(blocks, fitting);
}

template <class Engine>
ForwardPlan plan_forward(const Problem& p, const DeviceLimits& device) {
  ForwardPlan plan;
  plan.warps = Engine::forward_warps(FixedOptions::serves(p));
  fit_shared_memory<Engine>(plan, p, device, Engine::kForwardRowTiles, 0, [&](int warps) {
    return p.symmetric ? warps * partial_components(p) * Engine::kColumns * 4 : 0;
  });
  if (plan.warps == 0) return plan;
  plan.record_bytes = records_space<Engine>(p, 0);
  const bool batch = p.scope == Scope::kBatch;
  plan.tiles_per_frame = ceil_div(p.row.longest, plan.warps * 16 * Engine::kForwardRowTiles);
  if (plan.tiles_per_frame == 0) plan.tiles_per_frame = 1;  // an empty side still gets its (empty) statistics
  plan.groups = batch ? (p.frames > 0) : p.frames;
  plan.tiles_per_group = plan.tiles_per_frame * static_cast<std::int64_t>(batch ? p.frames : 1);
  const std::int64_t column_tiles = batch ? Feed<Engine>::column_tiles_of_batch(p.column, p.frames)
                                          : ceil_div(p.column.longest, static_cast<std::int64_t>(Engine::kColumns));

  // When symmetric, at most 16 rectangles along either side, which bounds the workspace; else each row tile is a block's.
  Cut cut;
  cut.groups = plan.groups;
  cut.row_tiles = plan.tiles_per_group;
  cut.column_tiles = column_tiles;
  cut.slots = blocks_in_flight(device, plan.shared_bytes, Kernels<Engine>::kForwardBlocks);
  cut.choose(p.symmetric, 16, 1, 1);
  plan.row_chunk = cut.row_chunk;
  plan.row_chunks = ceil_div(plan.tiles_per_group, plan.row_chunk);
  plan.column_chunk = cut.column_chunk;
  plan.column_chunks = cut.column_chunks();
  plan.capacity = cut.waves() * cut.slots * plan.row_chunk * plan.warps * 16 * Engine::kForwardRowTiles * plan.column_chunk *
                  Engine::kColumns;
  return plan;
}

/// Places the records of both sides of a problem at `memory` and writes them. They serve the sides exchanged, too.
template <class Engine>
Status launch_records(const Problem& p, int coefficients, const float* row_coefficients, const float* column_coefficients,
                      char* memory, Records& rows, Records& columns, Stream stream) {
  place_records<Engine>(p, coefficients, memory, rows, columns);
  return Kernels<Engine>::write_records(p, rows, columns, row_coefficients, column_coefficients, stream);
}

template <class Engine>
Status launch_forward(const ForwardArguments& a, Stream stream) {
  void (*const kernel)(ForwardArguments) = Kernels<Engine>::forward(a.problem);
  return launch(kernel, a.plan.blocks(), a.plan.warps * 32 + Feed<Engine>::kProducerThreads, a.plan.shared_bytes, stream, a);
}

template <class Engine>
BackwardPlan plan_backward(const Problem& p, const DeviceLimits& device, bool one_pass) {
  BackwardPlan plan;
  one_pass = one_pass && p.depth <= Engine::kOnePassDepth;
  const int row_tiles = Kernels<Engine>::row_tiles(p, one_pass);
  plan.warps = Kernels<Engine>::backward_warps(p.depth);
  const auto scores_bytes = [&](int warps) { return one_pass ? Kernels<Engine>::scores_bytes(warps * 16 * row_tiles) : 0; };
  // The scores, at a multiple of 1024 bytes, then the warps' sums for the temperature.
  fit_shared_memory<Engine>(plan, p, device, row_tiles, kCoefficients,
                            [&](int warps) { return warps * 4 + (one_pass ? 1024 : 0) + scores_bytes(warps); });
  // The one pass of sm_90a is compiled for all of its warps. Where it does not fit, two passes may.
  const int fewest = Engine::kWarpgroups ? Kernels<Engine>::backward_warps(p.depth) : Engine::kFewestWarps;
  if (one_pass && plan.warps < fewest) return plan_backward<Engine>(p, device, false);
  if (plan.warps == 0) return plan;
  plan.scores_at = (plan.feed_bytes + 1023) / 1024 * 1024;
  if (one_pass) {
    plan.sums_depth = (p.depth + 63) / 64 * 64;
    plan.feed_bytes = plan.scores_at + scores_bytes(plan.warps);
  }
  plan.record_bytes = records_space<Engine>(p, kCoefficients);
  plan.tiles_per_frame = ceil_div(p.row.longest, plan.warps * 16 * row_tiles);
  Cut cut;
  cut.row_tiles = plan.tiles_per_frame * p.frames;
  cut.column_tiles = p.scope == Scope::kBatch ? Feed<Engine>::column_tiles_of_batch(p.column, p.frames)
                                              : ceil_div(p.column.longest, Engine::kColumns);
  cut.slots = blocks_in_flight(device, plan.shared_bytes, Kernels<Engine>::backward_blocks(p.depth));
  cut.choose(false, 8, 1, 1);
  plan.column_chunk = cut.column_chunk;
  plan.column_chunks = cut.column_chunks();
  plan.blocks = cut.row_tiles * plan.column_chunks;
  plan.capacity = cut.waves() * cut.slots * plan.warps * 16 * row_tiles * plan.column_chunk * Engine::kColumns;
  return plan;
}

template <int kCount>
using Count = std::integral_constant<int, kCount>;

/// A name for options that are chosen by value.
template <class Options>
struct Form {
  using Type = Options;
};

/// Of a default form: which sides have terms is compiled in.
template <class Kernels, class Engine, int kDepthTiles, class Options>
auto backward_of_form(const BackwardArguments& a) -> void (*)(BackwardArguments) {
  if constexpr (kDepthTiles * 8 <= Engine::kOnePassDepth) {
    if (a.column_sums != nullptr)
      return a.column_coefficients == nullptr ? Kernels::template backward_for<kDepthTiles, Options, Terms::kRow, true>()
                                              : Kernels::template backward_for<kDepthTiles, Options, Terms::kBoth, true>();
  }
  if (a.column_coefficients == nullptr) return Kernels::template backward_for<kDepthTiles, Options, Terms::kRow, false>();
  if (a.row_coefficients == nullptr) return Kernels::template backward_for<kDepthTiles, Options, Terms::kColumn, false>();
  return Kernels::template backward_for<kDepthTiles, Options, Terms::kBoth, false>();
}

/// Of all other forms.
template <class Kernels, class Engine, int kDepthTiles, class Options>
auto backward_of_any(const BackwardArguments& a) -> void (*)(BackwardArguments) {
  if constexpr (kDepthTiles * 8 <= Engine::kOnePassDepth)
    if (a.column_sums != nullptr) return Kernels::template backward_for<kDepthTiles, Options, Terms::kAny, true>();
  return Kernels::template backward_for<kDepthTiles, Options, Terms::kAny, false>();
}

template <class Engine>
Status launch_backward(const BackwardArguments& a, Stream stream) {
  void (*const kernel)(BackwardArguments) = Kernels<Engine>::backward(a);
  return launch(kernel, a.plan.blocks, a.plan.warps * 32 + Feed<Engine>::kProducerThreads, a.plan.shared_bytes, stream, a);
}

template <class Engine>
Status launch_finish(FinishArguments a, Stream stream) {
  const std::int64_t rows = a.gradient != nullptr && a.frames > 0 ? slot_count(a.side, a.frames) * kSlotRows : 0;
  a.column_blocks = ceil_div(rows * ((a.depth + 1) / 2), 256);
  a.sum.blocks = ceil_div(a.sum.count, 256);
  return launch(finish_kernel<Engine>, a.column_blocks + a.sum.blocks + (a.temperature_gradient != nullptr), 256, 256 * 4,
                stream, a);
}

// Engine by engine: `extern template` where it is compiled elsewhere, `template` where it is compiled.
#define LAPAROFLOW_ENGINE(how, ...)                                                                                  \
  how ForwardPlan plan_forward<__VA_ARGS__>(const Problem&, const DeviceLimits&);                                    \
  how Status launch_records<__VA_ARGS__>(const Problem&, int, const float*, const float*, char*, Records&, Records&, \
                                         Stream);                                                                    \
  how Status launch_forward<__VA_ARGS__>(const ForwardArguments&, Stream);                                           \
  how BackwardPlan plan_backward<__VA_ARGS__>(const Problem&, const DeviceLimits&, bool);                            \
  how Status launch_backward<__VA_ARGS__>(const BackwardArguments&, Stream);                                         \
  how Status launch_finish<__VA_ARGS__>(FinishArguments, Stream)

}  // namespace laparoflow::cuda
