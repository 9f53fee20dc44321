// Plans (how a problem is cut into blocks) and the launches of one engine's kernels.
// The engines are instantiated in kernels_*.cu, one file each, so that they compile side by side.
#pragma once

#include "backward.cuh"
#include "forward.cuh"

namespace laparoflow::cuda {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Row tiles of 16 a warp owns in the backward; two where the gradient's registers allow it.
template <class Engine, int kDepth>
constexpr int kBackwardRowTiles = kDepth <= 64 ? Engine::kForwardRowTiles : 1;

/// Fits the tiles into the device's shared memory: first two stages, then one, then fewer warps.
/// Returns false when nothing fits.
template <class Plan, class Bytes>
bool fit_shared_memory(Plan& plan, int limit, int fewest, Bytes bytes) {
  for (; plan.warps >= fewest; plan.warps /= 2)
    for (plan.stages = 2; plan.stages >= 1; --plan.stages) {
      plan.shared_bytes = bytes(plan.warps, plan.stages);
      if (plan.shared_bytes <= limit) return true;
    }
  plan.warps = 0;
  return false;
}

template <class Engine>
ForwardPlan plan_forward(const Problem& p, const DeviceLimits& device) {
  ForwardPlan plan;
  const DepthLayout<Engine> layout(p.depth);
  fit_shared_memory(plan, device.shared_memory, Engine::kFewestWarps, [&](int warps, int stages) {
    const int sums = p.symmetric ? warps * partial_components(p) * Engine::kColumns * 4 : 0;
    return RowTile<Engine>::bytes(warps * 16 * Engine::kForwardRowTiles, layout.padded, p.flow_width) +
           stages * ColumnStage<Engine>::bytes(layout.padded, p.flow_width, 0) + sums;
  });
  if (plan.warps == 0) return plan;
  const bool batch = p.scope == Scope::kBatch;
  plan.tiles_per_frame = static_cast<int>(ceil_div(p.row.longest, plan.warps * 16 * Engine::kForwardRowTiles));
  if (plan.tiles_per_frame == 0) plan.tiles_per_frame = 1;  // an empty side still gets its (empty) statistics
  plan.groups = batch ? (p.frames > 0) : p.frames;
  plan.tiles_per_group = plan.tiles_per_frame * static_cast<std::int64_t>(batch ? p.frames : 1);
  const std::int64_t column_tiles =
      ceil_div(batch ? p.column.total : p.column.longest, static_cast<std::int64_t>(Engine::kColumns));

  // Two blocks a multiprocessor and wave. When symmetric, at most 16 rectangles along either side,
  // which bounds the workspace; otherwise a row tile is only split where there are too few of them.
  constexpr std::int64_t kMost = 16;
  const std::int64_t target = 2 * static_cast<std::int64_t>(device.multiprocessors);
  plan.row_chunk = p.symmetric ? ceil_div(plan.tiles_per_group, kMost) : 1;
  if (plan.row_chunk == 0) plan.row_chunk = 1;
  plan.row_chunks = ceil_div(plan.tiles_per_group, plan.row_chunk);
  std::int64_t wanted = ceil_div(target, plan.groups * plan.row_chunks > 0 ? plan.groups * plan.row_chunks : 1);
  if (wanted > kMost) wanted = kMost;
  plan.column_chunk = ceil_div(column_tiles, wanted);
  if (plan.column_chunk == 0) plan.column_chunk = 1;
  plan.column_chunks = ceil_div(column_tiles, plan.column_chunk);
  if (plan.column_chunks == 0) plan.column_chunks = 1;
  return plan;
}

template <class Engine>
Status launch_forward(const ForwardArguments& a, Stream stream) {
  constexpr int kTiles = Engine::kForwardRowTiles;
  void (*kernel)(ForwardArguments);
  if (FixedOptions::serves(a.problem))
    kernel = a.problem.symmetric ? forward_kernel<Engine, kTiles, FixedOptions, true>
                                 : forward_kernel<Engine, kTiles, FixedOptions, false>;
  else
    kernel = a.problem.symmetric ? forward_kernel<Engine, kTiles, GeneralOptions, true>
                                 : forward_kernel<Engine, kTiles, GeneralOptions, false>;
  return launch(kernel, a.plan.blocks(), a.plan.warps * 32, a.plan.shared_bytes, stream, a);
}

template <class Engine>
BackwardPlan plan_backward(const Problem& p, const DeviceLimits& device) {
  BackwardPlan plan;
  const DepthLayout<Engine> layout(p.depth);
  const int row_tiles = p.depth <= 64 ? kBackwardRowTiles<Engine, 64> : 1;
  plan.warps = p.depth <= 64 || std::is_same_v<typename Engine::Type, float> ? 4 : 8;
  fit_shared_memory(plan, device.shared_memory, Engine::kFewestWarps, [&](int warps, int stages) {
    return RowTile<Engine>::bytes(warps * 16 * row_tiles, layout.padded, p.flow_width) +
           stages * ColumnStage<Engine>::bytes(layout.padded, p.flow_width, kCoefficients);
  });
  if (plan.warps == 0) return plan;
  plan.tiles_per_frame = ceil_div(p.row.longest, plan.warps * 16 * row_tiles);
  plan.blocks = plan.tiles_per_frame * p.frames;
  return plan;
}

template <class Engine>
Status launch_backward(const BackwardArguments& a, Stream stream) {
  const bool fixed = FixedOptions::serves(a.problem);
  void (*kernel)(BackwardArguments);
  if (a.problem.depth <= 64)
    kernel = fixed ? backward_kernel<Engine, kBackwardRowTiles<Engine, 64>, 8, FixedOptions>
                   : backward_kernel<Engine, kBackwardRowTiles<Engine, 64>, 8, GeneralOptions>;
  else if (a.problem.depth <= 128)
    kernel = fixed ? backward_kernel<Engine, 1, 16, FixedOptions> : backward_kernel<Engine, 1, 16, GeneralOptions>;
  else
    kernel = fixed ? backward_kernel<Engine, 1, 32, FixedOptions> : backward_kernel<Engine, 1, 32, GeneralOptions>;
  return launch(kernel, a.plan.blocks, a.plan.warps * 32, a.plan.shared_bytes, stream, a);
}

}  // namespace laparoflow::cuda
