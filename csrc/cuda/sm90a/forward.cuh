// Forward statistics of the rows on sm_90a, as common/forward.cuh has them; those of the columns are another launch with the
// sides exchanged, which costs less there than column sums in the same pass.
//
// A warpgroup owns 64 rows and takes tile after tile of 64 columns from the producer. For the default form one product gives
// the logits and another log2 of the weights (factors.cuh); tiles beyond the reach of the factors take the flows'
// difference. The warpgroups are not held in step: while one waits for its products the others compute.
#pragma once

#include "../common/forward.cuh"
#include "feed.cuh"

namespace laparoflow::cuda {

/// `kImages`: 64s of the depth.
template <class Engine, int kImages, class Options>
LAPAROFLOW_DEVICE void warpgroup_forward(const ForwardArguments& arguments) {
  const Problem& problem = arguments.problem;
  const ForwardPlan& plan = arguments.plan;
  const int components = partial_components(problem);
  const int row_count = plan.warps * 16;
  const Rectangle rectangle(problem, plan);
  Feed<Engine> feed(feed_arguments(arguments, row_count), shared_memory());
  feed.span(static_cast<int>(problem.scope == Scope::kBatch ? 0 : rectangle.group),
            rectangle.column_slot * plan.column_chunk, plan.column_chunk);
  if (feed.feeds_only()) {
    lower_registers<Engine::kForwardFeedRegisters>();
    rectangle.each_row_tile(row_count,
                            [&](int frame, std::int64_t first_row, std::int64_t) { feed.send(frame, first_row); });
    return;
  }
  raise_registers<Engine::forward_registers(Options::kPlain)>();

  float* row_partials = arguments.row_partials + rectangle.column_slot * components * problem.row.total;
  const Options options(problem);
  const float scale = kLog2e / problem.temperature[0];
  const float no_mark[2] = {0.0f, 0.0f};  // of the rows: what a masked row has is not read

  rectangle.each_row_tile(row_count, [&](int frame, std::int64_t first_row, std::int64_t end_of_rows) {
    feed.begin(frame);
    TileStatistics<Engine, 1, Options, false> statistics;
    const int warp = thread_index() / 32;
    const RowTile<Engine> rows = feed.rows();
    RowFlows<Options, 1> flows;
    flows.refresh(options, rows, warp % 4 * 16, problem.flow_width, problem.inv_bandwidth[frame]);
    const bool rows_within_reach = feed.rows_within_reach();
    const typename Engine::RowOperands operands(rows);
    for (int tile = 0; tile < feed.tiles(); ++tile) {
      const ColumnStage<Engine> stage = feed.acquire();
      float c[1][Engine::kColumnTiles][4], log2_weights[Engine::kColumnTiles][4];
      warpgroup_fence();
      if constexpr (Options::kFixed) Engine::begin_log2_weights(log2_weights, operands, stage);
      Engine::template begin_logits<kImages>(c[0], operands, stage);
      warpgroup_commit();
      const bool near = rows_within_reach && feed.within_reach();  // read while the products are under way
      warpgroup_wait();
      if constexpr (Options::kFixed) hold_accumulators(log2_weights);
      hold_accumulators(c[0]);
      const auto add = [&](auto weights) { statistics.add_tile(c, weights, options, stage, scale, no_mark, nullptr); };
      if (!feed.holds_weights(tile))
        add(NoWeights());
      else if (Options::kFixed && near)
        add(ProductWeights<Engine::kColumnTiles>{log2_weights});
      else
        add(FlowWeights<Options, 1, ColumnStage<Engine>>(flows, options, stage));
      feed.release();
    }
    statistics.write_rows(row_partials, problem.row.total, components, first_row + warp * 16, end_of_rows, options);
  });
}

template <class Engine, int kImages, class Options>
LAPAROFLOW_KERNEL(Engine::forward_threads(Options::kPlain), 1)
warpgroup_forward_kernel(ForwardArguments arguments) {
  if constexpr (Engine::kCompiled)
    warpgroup_forward<Engine, kImages, Options>(arguments);
  else
    stop_kernel();  // built without this engine's architecture
}

}  // namespace laparoflow::cuda
