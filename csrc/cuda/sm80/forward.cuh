// Forward statistics of rows and, when symmetric, of columns on sm_80; the formulas are those of common/forward.cuh.
#pragma once

#include "../common/forward.cuh"
#include "feed.cuh"

namespace laparoflow::cuda {

template <class Engine, int kRowTiles, class Options, bool kSymmetric>
LAPAROFLOW_KERNEL(Engine::kForwardThreads, Engine::kForwardBlocks)
forward_kernel(ForwardArguments arguments) {
  constexpr int kRows = 2 * kRowTiles;
  constexpr int kColumns = Engine::kColumns;
  const Problem& problem = arguments.problem;
  const ForwardPlan& plan = arguments.plan;
  const int components = partial_components(problem);
  const int row_count = plan.warps * 16 * kRowTiles;
  const int warp = thread_index() / 32;
  const Lane at;
  const Rectangle rectangle(problem, plan);
  const DepthLayout<Engine> layout(problem.depth);

  Feed<Engine> feed(feed_arguments(arguments, row_count), shared_memory());
  feed.span(static_cast<int>(problem.scope == Scope::kBatch ? 0 : rectangle.group),
            rectangle.column_slot * plan.column_chunk, plan.column_chunk);
  float* row_partials = arguments.row_partials + rectangle.column_slot * components * problem.row.total;
  float* column_partials =
      arguments.column_partials + (kSymmetric ? rectangle.row_slot * components * problem.column.total : 0);
  float* warp_columns =  // [warps, components, kColumns], behind what the feed uses
      reinterpret_cast<float*>(shared_memory() + plan.feed_bytes);
  const Options options(problem);
  const Engine engine{problem.full_float};
  const float scale = kLog2e / problem.temperature[0];
  bool fresh = true;  // nothing has been written to the column slot yet

  rectangle.each_row_tile(row_count, [&](int frame, std::int64_t first_row, std::int64_t end_of_rows) {
    feed.template begin<Options::kGroups>(frame, first_row);
    TileStatistics<Engine, kRowTiles, Options, kSymmetric> statistics;
    RowFlows<Options, kRowTiles> flows;
    float row_mark[kRows];
    const int warp_row = warp * 16 * kRowTiles;
#pragma unroll
    for (int r = 0; r < kRows; ++r) row_mark[r] = 0.0f;

    for (int tile = 0; tile < feed.tiles(); ++tile) {
      const ColumnStage<Engine> stage = feed.template acquire<Options::kGroups>(tile);
      const RowTile<Engine> rows = feed.rows();
      if (tile == 0) {
        flows.refresh(options, rows, warp_row, problem.flow_width, problem.inv_bandwidth[frame]);
        if constexpr (kSymmetric) {
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const float mark = rows.mark[place(flows.row(r))];
            row_mark[r] = options.bounded ? mark : bias_of(mark);
          }
        }
      }
      float c[kRowTiles][Engine::kColumnTiles][4];
      float* sums = warp_columns + warp * components * kColumns;
      engine.template logits<kRowTiles>(c, rows.embedding, stage.embedding, layout.product_depth());
      if (Options::kGroups || feed.holds_weights(tile))
        statistics.add_tile(c, FlowWeights<Options, kRowTiles, ColumnStage<Engine>>(flows, options, stage), options, stage,
                            scale, row_mark, sums);
      else
        statistics.add_tile(c, NoWeights(), options, stage, scale, row_mark, sums);
      if constexpr (kSymmetric) {
        feed.barrier();
        const Range columns = feed.columns(tile);
        for (int j = thread_index(); columns.begin + j < columns.end; j += plan.warps * 32) {
          float* slot = column_partials + columns.begin + j;
          Partial sum;
          if (!fresh) sum = Partial::read(slot, problem.column.total, components);
          for (int v = 0; v < plan.warps; ++v)
            sum.merge(Partial::read(warp_columns + v * components * kColumns + j, kColumns, components), options.bounded,
                      options.inside);
          sum.write(slot, problem.column.total, components);
        }
        feed.barrier();
      }
      feed.release(tile);
    }
    feed.end();
    fresh = false;

    statistics.write_rows(row_partials, problem.row.total, components, first_row + warp * 16 * kRowTiles, end_of_rows,
                          options);
  });

  if (kSymmetric && fresh)
    for (int tile = 0; tile < feed.tiles(); ++tile) {
      const Range columns = feed.columns(tile);
      for (std::int64_t j = columns.begin + thread_index(); j < columns.end; j += plan.warps * 32)
        Partial().write(column_partials + j, problem.column.total, components);
    }
}

}  // namespace laparoflow::cuda
