// The gradient of one side, or of both in one pass, on sm_90a; the formulas are those of common/backward.cuh.
//
// A warpgroup owns 64 rows, or two times 64, and keeps their gradient in registers. Per tile of 64 columns and 64 rows it
// forms the logits and log2 of the weights (factors.cuh), turns them into dS, and starts the product dS k, whose end it
// awaits with the next logits. One pass: each warpgroup leaves dS in shared memory, where one of them, in turn, takes all
// rows' dS for dcolumn = dS^T q; it does so a tile later, so that nobody waits for the slowest. An mbarrier for each of the
// two buffers says that dS is there, another that it has been used.
#pragma once

#include "../common/backward.cuh"
#include "feed.cuh"

namespace laparoflow::cuda {

/// The dS of a block's rows in shared memory, two tiles of them, and who waits for whom.
template <class Engine>
struct ScoreBuffers {
  char* data;
  Barrier* barriers;  // full and used, for each buffer
  int row_count;

  LAPAROFLOW_HOST_DEVICE static int bytes(int row_count) {
    return Engine::kScoreBuffers * (Engine::scores_bytes(row_count) + 2 * static_cast<int>(sizeof(Barrier)));
  }
  LAPAROFLOW_DEVICE ScoreBuffers(char* memory, int row_count_) : data(memory), row_count(row_count_) {
    barriers = reinterpret_cast<Barrier*>(memory + Engine::kScoreBuffers * Engine::scores_bytes(row_count));
  }
  /// By one thread, before the feed is made, which publishes its own.
  LAPAROFLOW_DEVICE void begin(int threads) const {
    for (int b = 0; b < 2 * Engine::kScoreBuffers; ++b) barrier_init(barriers + b, threads);
  }
  LAPAROFLOW_DEVICE char* of(int tile) const {
    return data + tile % Engine::kScoreBuffers * Engine::scores_bytes(row_count);
  }
  LAPAROFLOW_DEVICE Barrier* full(int tile) const { return barriers + tile % Engine::kScoreBuffers * 2; }
  LAPAROFLOW_DEVICE Barrier* used(int tile) const { return full(tile) + 1; }
  LAPAROFLOW_DEVICE static unsigned phase(int tile) { return tile / Engine::kScoreBuffers & 1; }
};

template <class Engine, int kDepthTiles, class Options, Terms kTerms, bool kOnePass>
LAPAROFLOW_DEVICE void warpgroup_backward(const BackwardArguments& arguments) {
  const Problem& problem = arguments.problem;
  const BackwardPlan& plan = arguments.plan;
  constexpr int kImages = Engine::row_images(kDepthTiles, kOnePass && Options::kPlain && kTerms == Terms::kRow);
  const int row_count = plan.warps * 16 * kImages;
  const int frame = plan.frame();
  const Range range = rows_of_block(arguments, frame, row_count);
  const std::int64_t first_row = range.begin, end_of_rows = range.end;
  if (first_row >= end_of_rows) return;
  const ScoreBuffers<Engine> scores(shared_memory() + plan.scores_at, row_count);
  if (kOnePass && thread_index() == 0) scores.begin(plan.warps * 32);
  Feed<Engine> feed(feed_arguments(arguments, row_count), shared_memory());
  feed.span(frame, plan.column_slot() * plan.column_chunk, plan.column_chunk);
  if (feed.feeds_only()) {
    lower_registers<Engine::backward_feed_registers(kDepthTiles)>();
    feed.send(frame, first_row);
    return;
  }
  raise_registers<Engine::backward_registers(kDepthTiles)>();

  const Options options(problem);
  const float scale = kLog2e / problem.temperature[0];
  feed.begin(frame);
  // Where in the block's row tile the thread's first row of the m-th 64 is; another lies 8 rows on.
  const auto row_of = [](int m, int thread) {
    return (thread / 128 * kImages + m) * kSlotRows + thread % 128 / 32 * 16 + Lane(thread).group;
  };
  using Gradient = TileGradient<Engine, 1, Options, kTerms, kOnePass>;
  Gradient tile_gradient[kImages];
  float g[kImages][kDepthTiles][4];
#pragma unroll
  for (int m = 0; m < kImages; ++m) {
    tile_gradient[m].read_rows(arguments, end_of_rows, first_row + row_of(m, thread_index()));
#pragma unroll
    for (int d = 0; d < kDepthTiles; ++d)
#pragma unroll
      for (int e = 0; e < 4; ++e) g[m][d][e] = 0.0f;
  }

  const typename Engine::RowOperands first_operands(feed.rows());
  int turn = 0;  // whose the next piece is
  const auto column_gradient = [&](int tile) {
    Engine::template column_gradient<kDepthTiles, kImages>(
        scores.of(tile), scores.full(tile), scores.phase(tile), feed.all_rows(), feed.row_pitch(), turn, problem.depth,
        ColumnSums{arguments.column_sums, plan.sums_depth}, feed.slot(tile));
    barrier_arrive(scores.used(tile));
  };

#pragma unroll 1
  for (int tile = 0; tile < feed.tiles(); ++tile) {
    const ColumnStage<Engine> stage = feed.acquire();
#pragma unroll
    for (int m = 0; m < kImages; ++m) {
      float c[1][Engine::kColumnTiles][4], log2_weights[Engine::kColumnTiles][4];
      // Two times 64 rows have no registers for what is at hand elsewhere.
      const int thread = kImages > 1 || kDepthTiles == 32 ? thread_index_again() : thread_index();
      if constexpr (kImages > 1) tile_gradient[m].reread_rows(feed.row_record(m), row_of(0, thread % 128));
      const typename Engine::RowOperands operands =
          kImages > 1 ? typename Engine::RowOperands(feed.rows(m)) : first_operands;
      warpgroup_fence();
      if constexpr (Options::kFixed) Engine::begin_log2_weights(log2_weights, operands, stage);
      Engine::template begin_logits<kDepthTiles / 8>(c[0], operands, stage);
      warpgroup_commit();
      const bool near = feed.rows_within_reach(m) && feed.within_reach();  // read while the products are under way
      warpgroup_wait();                                                    // and for dS k before it
      if constexpr (Options::kFixed) hold_accumulators(log2_weights);
      hold_accumulators(c[0]);
      hold_accumulators(g[m]);
      if (m == 0 && tile > 0) feed.release_previous();
      if (!feed.holds_weights(tile)) {
        tile_gradient[m].template apply<true>(c, NoWeights(), options, stage, scale);
      } else if (Options::kFixed && near) {
        const ProductWeights<Engine::kColumnTiles> weights{log2_weights};
        if (arguments.temperature_partials != nullptr)
          tile_gradient[m].template apply<true>(c, weights, options, stage, scale);
        else
          tile_gradient[m].template apply<false>(c, weights, options, stage, scale);
      } else {
        RowFlows<Options, 1> flows;
        flows.refresh(options, feed.rows(m), thread % 128 / 32 * 16, problem.flow_width, problem.inv_bandwidth[frame]);
        tile_gradient[m].template apply<true>(c, FlowWeights<Options, 1, ColumnStage<Engine>>(flows, options, stage),
                                              options, stage, scale);
      }
      std::uint32_t ds[Engine::kColumnTiles / 2][4];
      Engine::pack_scores(ds, c[0]);
      if constexpr (kOnePass) {
        if (m == 0) barrier_wait(scores.used(tile), scores.phase(tile) ^ 1);
        Engine::store_scores(scores.of(tile) + Engine::scores_bytes(row_of(m, thread) / 16 * 16), Lane(thread), ds);
        if (m == kImages - 1) barrier_arrive(scores.full(tile));
      }
      hold_accumulators(g[m]);
      warpgroup_fence();
      Engine::begin_gradient(g[m], ds, stage.embedding);
      warpgroup_commit();
    }
    if constexpr (kOnePass) {
      if (tile > 0) column_gradient(tile - 1);
    } else {  // the compiler would not leave these products under way across the loop's end
      warpgroup_wait();
      hold_accumulators(g[0]);
    }
    feed.advance();
  }
  warpgroup_wait();
#pragma unroll
  for (int m = 0; m < kImages; ++m) hold_accumulators(g[m]);
  if constexpr (kOnePass)
    if (feed.tiles() > 0) column_gradient(feed.tiles() - 1);
  write_gradient<kImages, Gradient::kFolded && kTerms == Terms::kRow>(
      arguments, row_count, g, [&](int r) { return tile_gradient[r / 2].temperature[r % 2]; }, feed,
      [&](int r) { return row_of(r / 2, thread_index()) + r % 2 * 8; });
}

template <class Engine, int kDepthTiles, class Options, Terms kTerms, bool kOnePass>
LAPAROFLOW_KERNEL(Engine::backward_threads(kDepthTiles), 1)
warpgroup_backward_kernel(BackwardArguments arguments) {
  if constexpr (Engine::kCompiled)
    warpgroup_backward<Engine, kDepthTiles, Options, kTerms, kOnePass>(arguments);
  else
    stop_kernel();  // built without this engine's architecture
}

}  // namespace laparoflow::cuda
