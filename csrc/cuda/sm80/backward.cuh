// The gradient of one side, or of both in one pass, on sm_80; the formulas are those of common/backward.cuh.
#pragma once

#include "../common/backward.cuh"
#include "feed.cuh"

namespace laparoflow::cuda {

template <class Engine, int kRowTiles, int kDepthTiles, class Options, Terms kTerms, bool kOnePass>
LAPAROFLOW_KERNEL(Engine::backward_threads(kRowTiles), Engine::backward_blocks(kRowTiles))
backward_kernel(BackwardArguments arguments) {
  const Problem& problem = arguments.problem;
  const BackwardPlan& plan = arguments.plan;
  const int row_count = plan.warps * 16 * kRowTiles;
  const int warp = thread_index() / 32;
  const Lane at;
  const int frame = plan.frame();
  const Range range = rows_of_block(arguments, frame, row_count);
  const std::int64_t first_row = range.begin, end_of_rows = range.end;
  if (first_row >= end_of_rows) return;
  const DepthLayout<Engine> layout(problem.depth);
  Feed<Engine> feed(feed_arguments(arguments, row_count), shared_memory());
  feed.span(frame, plan.column_slot() * plan.column_chunk, plan.column_chunk);
  const Options options(problem);
  const Engine engine{problem.full_float};
  const float held_scale = kLog2e / problem.temperature[0];
  const std::int64_t first_of_thread = first_row + warp * 16 * kRowTiles + at.group;  // and every 8 rows on

  feed.template begin<Options::kGroups>(frame, first_row);
  RowFlows<Options, kRowTiles> flows;
  TileGradient<Engine, kRowTiles, Options, kTerms, kOnePass> tile_gradient;
  tile_gradient.read_rows(arguments, end_of_rows, first_of_thread);
  float g[kRowTiles][kDepthTiles][4];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (int d = 0; d < kDepthTiles; ++d)
#pragma unroll
      for (int e = 0; e < 4; ++e) g[m][d][e] = 0.0f;

  for (int tile = 0; tile < feed.tiles(); ++tile) {
    const ColumnStage<Engine> stage = feed.template acquire<Options::kGroups>(tile);
    if (tile == 0)
      flows.refresh(options, feed.rows(), warp * 16 * kRowTiles, problem.flow_width, problem.inv_bandwidth[frame]);
    // Two passes over both terms with two row tiles have registers for one copy of the sweep alone, so it always sums, and
    // the lane is read again for the products. The compiler for sm_90a is one short even so, and the scale is made again
    // there.
    constexpr bool kScarce = kTerms == Terms::kBoth && kRowTiles == 2 && !kOnePass;
    constexpr bool kOneCopy = !Options::kFixed || kScarce;
    float c[kRowTiles][Engine::kColumnTiles][4];
    engine.template logits<kRowTiles>(c, feed.rows().embedding, stage.embedding, layout.product_depth(),
                                      kScarce ? Lane(thread_index_again()) : Lane());
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
    const float scale = Options::kFixed && kScarce ? kLog2e / problem.temperature[0] : held_scale;
#else
    const float scale = held_scale;
#endif
    const FlowWeights<Options, kRowTiles, ColumnStage<Engine>> weights(flows, options, stage);
    if (kOneCopy || arguments.temperature_partials != nullptr) {
      if (Options::kGroups || feed.holds_weights(tile))
        tile_gradient.template apply<true>(c, weights, options, stage, scale);
      else
        tile_gradient.template apply<true>(c, NoWeights(), options, stage, scale);
    } else if (feed.holds_weights(tile)) {
      tile_gradient.template apply<kOneCopy>(c, weights, options, stage, scale);
    } else {
      tile_gradient.template apply<kOneCopy>(c, NoWeights(), options, stage, scale);
    }
    if constexpr (kOnePass) {
      char* scores = shared_memory() + plan.scores_at;
      engine.store_scores(scores, c);
      engine.gradient(g, c, stage.embedding, layout.product_depth());
      feed.barrier();
      engine.column_gradient(scores, feed.rows().embedding, row_count, plan.warps, layout.product_depth(),
                             ColumnSums{arguments.column_sums, plan.sums_depth}, feed.slot(tile));
    } else {
      engine.gradient(g, c, stage.embedding, layout.product_depth());
    }
    feed.release(tile);
  }
  feed.end();

  write_gradient<kRowTiles, false>(
      arguments, row_count, g, [&](int r) { return tile_gradient.temperature[r]; }, feed,
      [&](int r) { return warp * 16 * kRowTiles + at.group + r * 8; });
}

}  // namespace laparoflow::cuda
