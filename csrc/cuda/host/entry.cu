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

/// The plans of the forward: of both sides at once, or of one after the other over the same records.
struct ForwardPlans {
  Problem problems[2];
  ForwardPlan plans[2];
  int count;

  ForwardPlans(const Problem& p, const DeviceLimits& device) : count(p.symmetric && !takes_symmetric_pass(p) ? 2 : 1) {
    problems[0] = count == 2 ? one_direction(p) : p;
    problems[1] = exchanged(problems[0]);
    for (int i = 0; i < count; ++i) plans[i] = plan_of_forward(problems[i], device);
  }
  /// Numbers of the rows' partial statistics, and of the columns'.
  std::int64_t row_partials() const {
    return plans[0].column_chunks * problems[0].row.total * partial_components(problems[0]);
  }
  std::int64_t column_partials() const {
    const std::int64_t slots = count == 2 ? plans[1].column_chunks : problems[0].symmetric ? plans[0].row_chunks : 0;
    return slots * problems[0].column.total * partial_components(problems[0]);
  }
};

/// The records of both sides at the beginning of the workspace: they are read in pieces of 16 bytes.
Status write_records(const Problem& p, int coefficients, const float* of_rows, const float* of_columns, void* workspace,
                     Records& rows, Records& columns, Stream stream) {
  return with_engine(p, [&](auto engine) {
    return launch_records<decltype(engine)>(p, coefficients, of_rows, of_columns, static_cast<char*>(workspace), rows,
                                            columns, stream);
  });
}

}  // namespace

std::int64_t forward_capacity(const Problem& p, const DeviceLimits& device) { return plan_of_forward(p, device).capacity; }
std::int64_t backward_capacity(const Problem& p, const DeviceLimits& device, bool one_pass) {
  return plan_of_backward(p, device, one_pass).capacity;
}

std::size_t forward_workspace_bytes(const Problem& p, const DeviceLimits& device) {
  const ForwardPlans of(p, device);
  return of.plans[0].record_bytes + static_cast<std::size_t>(of.row_partials() + of.column_partials()) * sizeof(float);
}

Status forward(const Problem& p, const DeviceLimits& device, const ForwardOutputs& out, Stream stream) {
  const ForwardPlans of(p, device);
  for (int i = 0; i < of.count; ++i)
    if (of.plans[i].warps == 0) return kDoesNotFit;
  Records rows, columns;
  Status status = write_records(p, 0, nullptr, nullptr, out.workspace, rows, columns, stream);
  Arena arena{reinterpret_cast<float*>(static_cast<char*>(out.workspace) + of.plans[0].record_bytes)};
  float* const row_partials = arena.take(of.row_partials());
  float* const column_partials = arena.take(of.column_partials());
  for (int i = 0; i < of.count && status == kSuccess; ++i) {
    const bool of_rows = i == 0;
    const ForwardArguments a{of.problems[i],
                             of.plans[i],
                             of_rows ? row_partials : column_partials,
                             of.problems[i].symmetric ? column_partials : nullptr,
                             of_rows ? rows : columns,
                             of_rows ? columns : rows};
    status = with_engine(p, [&](auto engine) { return launch_forward<decltype(engine)>(a, stream); });
  }
  if (status != kSuccess) return status;
  MergeArguments m;
  m.problem = p;
  m.rows = {row_partials, of.plans[0].column_chunks, out.row_stats};
  m.columns = {column_partials, of.count == 2 ? of.plans[1].column_chunks : of.plans[0].row_chunks, out.column_stats};
  m.row_blocks = ceil_div(p.row.total, kThreads);
  return launch(merge_kernel, m.row_blocks + (p.symmetric ? ceil_div(p.column.total, kThreads) : 0), kThreads,
                2 * kThreads * 4, stream, m);
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

Status backward(const Problem& problem, const DeviceLimits& device, const BackwardInputs& in, const BackwardOutputs& out,
                Stream stream) {
  const bool both = out.row_gradient != nullptr && out.column_gradient != nullptr;
  const BackwardPlan first = plan_of_backward(problem, device, both && !problem.deterministic);
  const bool one_pass = first.sums_depth > 0;
  Problem p = problem;
  p.folded = folds_coefficients(p, one_pass);
  const std::int64_t sums = ColumnSums::count(slot_count(p.column, p.frames), first.sums_depth);
  Arena arena{reinterpret_cast<float*>(static_cast<char*>(out.workspace) + first.record_bytes)};
  float* column_sums = nullptr;
  if (one_pass) column_sums = arena.take(sums);  // at a multiple of 16 bytes
  float* gradient_partials = arena.take(row_partials(p, first, device));
  float* loss_scale = arena.take(1);
  float* row_coefficients = arena.take(kCoefficients * p.row.total);
  float* column_coefficients = p.symmetric ? arena.take(kCoefficients * p.column.total) : nullptr;

  CoefficientArguments c;
  const auto blocks_of = [](std::int64_t total) { return total / kThreads + 1; };
  c.rows = {in.row_stats, in.row_grad, p.row.mask, p.row.total, blocks_of(p.row.total), row_coefficients};
  if (p.symmetric)
    c.columns = {in.column_stats,           in.column_grad,     p.column.mask, p.column.total,
                 blocks_of(p.column.total), column_coefficients};
  c.bounded = p.bounded;
  c.inside = p.positives == Positives::kInside;
  c.folded = p.folded;
  c.temperature = p.temperature;
  c.scale_blocks = scale_blocks(p);
  c.scale_exponents = arena.take(c.scale_blocks);
  c.loss_scale = loss_scale;
  c.cleared = column_sums;
  c.cleared_count = sums;
  // Enough blocks to clear many sums beside few rows.
  c.blocks = std::max(c.rows.blocks + c.columns.blocks, std::min<std::int64_t>(512, ceil_div(sums, 16 * kThreads)));
  Status status = launch(scale_kernel, c.scale_blocks, kThreads, kThreads * 4, stream, c);
  if (status == kSuccess) status = launch(coefficient_kernel, c.blocks, kThreads, kThreads * 4, stream, c);
  Records rows, columns;
  if (status == kSuccess)
    status = write_records(p, kCoefficients, row_coefficients, column_coefficients, out.workspace, rows, columns, stream);

  // The temperature rides on a pass that runs anyway, on one of its own only when asked for alone.
  const bool row_pass = out.row_gradient != nullptr || (out.temperature_gradient != nullptr && !out.column_gradient);
  const bool column_pass = out.column_gradient != nullptr && !one_pass;
  for (const bool of_rows : {true, false}) {
    if (status != kSuccess || !(of_rows ? row_pass : column_pass)) continue;
    BackwardArguments a;
    a.problem = of_rows ? p : exchanged(p);
    a.plan = of_rows ? first : plan_of_backward(a.problem, device, false);
    a.column_sums = column_sums;
    if (a.plan.warps == 0) return kDoesNotFit;
    if (a.plan.column_chunks > 1) a.row_partials = gradient_partials;
    a.row_coefficients = of_rows ? row_coefficients : column_coefficients;
    a.column_coefficients = of_rows ? column_coefficients : row_coefficients;
    a.row_records = of_rows ? rows : columns;
    a.column_records = of_rows ? columns : rows;
    a.loss_scale = loss_scale;
    a.gradient = of_rows ? out.row_gradient : out.column_gradient;
    FinishArguments f;
    f.temperature = p.temperature;
    f.loss_scale = loss_scale;
    if (out.temperature_gradient != nullptr && of_rows == row_pass) {
      f.temperature_gradient = out.temperature_gradient;
      f.temperature_count = a.plan.blocks;
      f.temperature_partials = a.temperature_partials = arena.take(a.plan.blocks);
    }
    status = with_engine(p, [&](auto engine) { return launch_backward<decltype(engine)>(a, stream); });
    if (a.row_partials != nullptr)
      f.sum = {a.row_partials, a.plan.column_chunks, a.problem.row.total * p.depth, a.gradient, 0};
    if (one_pass) {
      f.side = p.column;
      f.frames = p.frames;
      f.depth = p.depth;
      f.batch = p.scope == Scope::kBatch;
      f.sums = {column_sums, first.sums_depth};
      f.gradient = out.column_gradient;
    }
    if (status == kSuccess) status = with_engine(p, [&](auto engine) { return launch_finish<decltype(engine)>(f, stream); });
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
