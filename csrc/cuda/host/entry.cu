// Entry points: choose the engine by element type, lay out the workspace, launch in order.
#include <algorithm>

#include "../common/small_kernels.cuh"
#include "../common/weighted_sum.cuh"
#include "../sm80/feed.cuh"
#include "../sm90a/feed.cuh"
#include "entry.h"
#include "launch.cuh"

namespace laparoflow::cuda {

LAPAROFLOW_ENGINE(extern template, EngineHalf<BFloat16>);
LAPAROFLOW_ENGINE(extern template, EngineHalf<Half>);
LAPAROFLOW_ENGINE(extern template, EngineFloat);
LAPAROFLOW_ENGINE(extern template, EngineWarpgroup<BFloat16>);
LAPAROFLOW_ENGINE(extern template, EngineWarpgroup<Half>);

namespace {

constexpr int kThreads = 256;

/// Calls `visit` with a value of the problem's engine type.
template <class Visit>
auto with_engine(const Problem& p, Visit visit) {
  if (p.path == Path::kWarpgroup && p.element == Element::kBFloat16) return visit(EngineWarpgroup<BFloat16>{});
  if (p.path == Path::kWarpgroup && p.element == Element::kHalf) return visit(EngineWarpgroup<Half>{});
  if (p.element == Element::kBFloat16) return visit(EngineHalf<BFloat16>{});
  if (p.element == Element::kHalf) return visit(EngineHalf<Half>{});
  return visit(EngineFloat{});
}

ForwardPlan plan_of_forward(const Problem& p, const DeviceLimits& device) {
  return with_engine(p, [&](auto engine) { return plan_forward<decltype(engine)>(p, device); });
}

/// In one pass where that is wanted and the engine has it: then sums_depth is not 0.
BackwardPlan plan_of_backward(const Problem& p, const DeviceLimits& device, bool one_pass) {
  return with_engine(p, [&](auto engine) { return plan_backward<decltype(engine)>(p, device, one_pass); });
}

/// The same problem with the keys as rows.
Problem exchanged(const Problem& p) {
  Problem swapped = p;
  swapped.row = p.column;
  swapped.column = p.row;
  return swapped;
}

/// Whether the statistics of both sides come from one pass over the pairs; else from one for each, the sides exchanged.
bool takes_symmetric_pass(const Problem& p) {
  return with_engine(p, [](auto engine) { return !decltype(engine)::kWarpgroups; });
}

/// Numbers of the gradients' partial sums where columns are cut into chunks; `plan` is of the rows, the pass over the
/// columns, if there is one, uses the same space.
std::int64_t row_partials(const Problem& p, const BackwardPlan& plan, const DeviceLimits& device) {
  const auto numbers = [&](std::int64_t chunks, const Side& side) { return chunks > 1 ? chunks * side.total * p.depth : 0; };
  const std::int64_t rows = numbers(plan.column_chunks, p.row);
  if (plan.sums_depth > 0) return rows;
  return std::max(rows, numbers(plan_of_backward(exchanged(p), device, false).column_chunks, p.column));
}

std::int64_t scale_blocks(const Problem& p) {
  return std::min<std::int64_t>(kMostScaleBlocks, ceil_div(std::max(p.row.total, p.column.total), 4 * kThreads) + 1);
}

/// The problem without the statistics of its columns.
Problem one_direction(const Problem& p) {
  Problem rows = p;
  rows.symmetric = false;
  return rows;
}

/// Hands out consecutive float arrays of a workspace.
struct Arena {
  float* next;
  float* take(std::int64_t count) {
    float* at = next;
    next += count;
    return at;
  }
};

/// The statistics of the row side from its partials.
Status merge(const float* partials, std::int64_t slots, const Problem& p, float* stats, Stream stream) {
  const MergeArguments a{p, partials, slots, stats};
  return launch(merge_kernel, ceil_div(p.row.total, kThreads), kThreads, 2 * kThreads * 4, stream, a);
}

}  // namespace

std::int64_t forward_capacity(const Problem& p, const DeviceLimits& device) { return plan_of_forward(p, device).capacity; }
std::int64_t backward_capacity(const Problem& p, const DeviceLimits& device, bool one_pass) {
  return plan_of_backward(p, device, one_pass).capacity;
}

std::size_t forward_workspace_bytes(const Problem& p, const DeviceLimits& device) {
  if (p.symmetric && !takes_symmetric_pass(p)) {
    const Problem rows = one_direction(p);
    return std::max(forward_workspace_bytes(rows, device), forward_workspace_bytes(exchanged(rows), device));
  }
  const ForwardPlan plan = plan_of_forward(p, device);
  const std::int64_t rows = plan.column_chunks * p.row.total;
  const std::int64_t columns = p.symmetric ? plan.row_chunks * p.column.total : 0;
  return plan.record_bytes + static_cast<std::size_t>(rows + columns) * partial_components(p) * sizeof(float);
}

Status forward(const Problem& p, const DeviceLimits& device, const ForwardOutputs& out, Stream stream) {
  if (p.symmetric && !takes_symmetric_pass(p)) {  // in the same workspace, one after the other
    const Problem rows = one_direction(p);
    ForwardOutputs columns = out;
    columns.row_stats = out.column_stats;
    const Status status = forward(rows, device, out, stream);
    return status != kSuccess ? status : forward(exchanged(rows), device, columns, stream);
  }
  ForwardArguments a;
  a.problem = p;
  a.plan = plan_of_forward(p, device);
  if (a.plan.warps == 0) return kDoesNotFit;
  // Records first: they are read in pieces of 16 bytes.
  with_engine(p, [&](auto engine) {
    place_records<decltype(engine)>(p, 0, static_cast<char*>(out.workspace), a.row_records, a.column_records);
  });
  Arena arena{reinterpret_cast<float*>(static_cast<char*>(out.workspace) + a.plan.record_bytes)};
  a.row_partials = arena.take(a.plan.column_chunks * partial_components(p) * p.row.total);
  if (p.symmetric) a.column_partials = arena.take(a.plan.row_chunks * partial_components(p) * p.column.total);
  Status status = with_engine(p, [&](auto engine) { return launch_forward<decltype(engine)>(a, stream); });
  if (status == kSuccess) status = merge(a.row_partials, a.plan.column_chunks, p, out.row_stats, stream);
  if (status == kSuccess && p.symmetric)
    status = merge(a.column_partials, a.plan.row_chunks, exchanged(p), out.column_stats, stream);
  return status;
}

std::size_t backward_workspace_bytes(const Problem& p, const DeviceLimits& device, bool both) {
  const BackwardPlan plan = plan_of_backward(p, device, both && !p.deterministic);
  std::int64_t floats = kCoefficients * (p.row.total + p.column.total) + plan.blocks + 1 + scale_blocks(p);
  floats += row_partials(p, plan, device);
  if (plan.sums_depth > 0)
    floats += ColumnSums::count(slot_count(p.column, p.frames), plan.sums_depth);
  else
    floats += plan_of_backward(exchanged(p), device, false).blocks;
  return plan.record_bytes + static_cast<std::size_t>(floats) * sizeof(float);
}

Status backward(const Problem& p, const DeviceLimits& device, const BackwardInputs& in, const BackwardOutputs& out,
                Stream stream) {
  const bool both = out.row_gradient != nullptr && out.column_gradient != nullptr;
  const BackwardPlan first = plan_of_backward(p, device, both && !p.deterministic);
  const bool one_pass = first.sums_depth > 0;
  const std::int64_t sums = ColumnSums::count(slot_count(p.column, p.frames), first.sums_depth);
  Arena arena{reinterpret_cast<float*>(static_cast<char*>(out.workspace) + first.record_bytes)};
  float* column_sums = nullptr;
  if (one_pass) column_sums = arena.take(sums);  // at a multiple of 16 bytes
  float* gradient_partials = arena.take(row_partials(p, first, device));
  float* loss_scale = arena.take(1);
  float* row_coefficients = arena.take(kCoefficients * p.row.total);
  float* column_coefficients = p.symmetric ? arena.take(kCoefficients * p.column.total) : nullptr;

  ScaleArguments scale;
  scale.sides[0] = {in.row_stats, in.row_grad, p.row.total};
  if (p.symmetric) scale.sides[1] = {in.column_stats, in.column_grad, p.column.total};
  scale.inside = p.positives == Positives::kInside;
  scale.blocks = scale_blocks(p);
  scale.exponents = arena.take(scale.blocks);
  Status status = launch(scale_kernel, scale.blocks, kThreads, kThreads * 4, stream, scale);
  for (const bool of_rows : {true, false}) {
    if (status != kSuccess || !(of_rows || p.symmetric)) continue;
    const auto& side = scale.sides[of_rows ? 0 : 1];
    const CoefficientArguments c{side.stats,
                                 side.grad,
                                 of_rows ? p.row.mask : p.column.mask,
                                 scale.exponents,
                                 scale.blocks,
                                 side.total,
                                 p.bounded,
                                 scale.inside,
                                 loss_scale,
                                 of_rows ? row_coefficients : column_coefficients};
    const std::int64_t blocks = c.total / kThreads + 1;  // one at least: the loss scale
    status = launch(coefficient_kernel, blocks, kThreads, kThreads * 4, stream, c);
  }

  if (status == kSuccess && one_pass) {
    status = launch(clear_kernel, ceil_div(sums, kThreads), kThreads, 0, stream, ClearArguments{column_sums, sums});
  }

  // The temperature rides on a pass that runs anyway, on one of its own only when asked for alone.
  const bool row_pass = out.row_gradient != nullptr || (out.temperature_gradient != nullptr && !out.column_gradient);
  float* partials = nullptr;
  std::int64_t partial_count = 0;
  for (const bool of_rows : {true, false}) {
    if (status != kSuccess || (of_rows ? !row_pass : out.column_gradient == nullptr || one_pass)) continue;
    BackwardArguments a;
    a.problem = of_rows ? p : exchanged(p);
    a.plan = of_rows ? first : plan_of_backward(a.problem, device, false);
    a.column_sums = column_sums;
    if (a.plan.warps == 0) return kDoesNotFit;
    if (a.plan.column_chunks > 1) a.row_partials = gradient_partials;
    a.row_coefficients = of_rows ? row_coefficients : column_coefficients;
    a.column_coefficients = of_rows ? column_coefficients : row_coefficients;
    with_engine(p, [&](auto engine) {
      place_records<decltype(engine)>(a.problem, kCoefficients, static_cast<char*>(out.workspace), a.row_records,
                                      a.column_records);
    });
    a.loss_scale = loss_scale;
    a.gradient = of_rows ? out.row_gradient : out.column_gradient;
    if (out.temperature_gradient != nullptr && partials == nullptr) {
      partial_count = a.plan.blocks;
      partials = a.temperature_partials = arena.take(partial_count);
    }
    status = with_engine(p, [&](auto engine) { return launch_backward<decltype(engine)>(a, stream); });
  }
  if (status == kSuccess && one_pass) {
    const FinishArguments f{
        p.column,   p.frames,           p.depth, p.scope == Scope::kBatch, {column_sums, first.sums_depth}, p.temperature,
        loss_scale, out.column_gradient};
    status = with_engine(p, [&](auto engine) { return launch_finish<decltype(engine)>(f, stream); });
  }
  if (status == kSuccess && out.temperature_gradient != nullptr) {
    const TemperatureArguments t{partials, partial_count, p.temperature, loss_scale, out.temperature_gradient};
    status = launch(temperature_kernel, 1, kThreads, kThreads * 4, stream, t);
  }
  return status;
}

Status weighted_sum(const WeightedSum& p, Stream stream) {
  const std::int64_t channel_tiles = p.channels > 0 ? ceil_div(p.channels, WeightedSumTile::kChannels) : 1;
  const WeightedSumArguments a{p, channel_tiles, ceil_div(p.row.longest, WeightedSumTile::kRows)};
  return launch(weighted_sum_kernel, a.tiles_per_frame * a.channel_tiles * p.frames, WeightedSumTile::kThreads,
                static_cast<int>(sizeof(WeightedSumTile)), stream, a);
}

}  // namespace laparoflow::cuda
