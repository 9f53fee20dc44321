// Forward statistics of the flow-weighted contrastive loss, rows and (symmetric) columns in one pass.
//
//   lse_i = log sum_j n_ij e^(s_ij)    W_i = sum_j w_ij    h_i = sum_j w_ij ln w_ij
//   positive_i = sum_j w_ij s_ij / W_i (outside)  or  log sum_j w_ij e^(s_ij) (inside)
//
// Grid: the pairs of a frame (scope "batch": all rows with all keys) are cut into rectangles of
// `row_chunk` x `column_chunk` tiles, one block each. A block sweeps its rectangle row tile by row
// tile: row sums live in registers, column sums in the block's own slot of the workspace, so nothing
// is added atomically and every order of summation is fixed. A second kernel merges the slots.
// Memory: (column_chunks * row.total + row_chunks * column.total) * components * 4 bytes.
#pragma once

#include "partial.cuh"

namespace laparoflow::cuda {

struct ForwardPlan {
  int warps = 4, stages = 2, shared_bytes = 0;
  int tiles_per_frame = 0;          // row tiles of the longest frame
  std::int64_t tiles_per_group = 0; // row tiles that share their columns: one frame, or the batch
  std::int64_t groups = 0;
  std::int64_t row_chunk = 1, row_chunks = 0;        // tiles in a rectangle, rectangles in a group
  std::int64_t column_chunk = 1, column_chunks = 0;
  std::int64_t blocks() const { return groups * row_chunks * column_chunks; }
};

struct ForwardArguments {
  Problem problem;
  ForwardPlan plan;
  float* row_partials = nullptr;     // [column_chunks, components, row.total]
  float* column_partials = nullptr;  // [row_chunks, components, column.total], only when symmetric
};

/// Adds `t` (base 2 exponents) to a sum of 2^(t - m), moving the maximum when it rises.
LAPAROFLOW_DEVICE void add_exponents(float& sum, float& tile_sum, float& m, float t0, float t1) {
  const float top = DeviceMath::max(t0, t1);
  if (top > m) {
    const float factor = DeviceMath::exp2(m - top);
    sum *= factor;
    tile_sum *= factor;
    m = top;
  }
  tile_sum += DeviceMath::exp2(t0 - m) + DeviceMath::exp2(t1 - m);
}

LAPAROFLOW_DEVICE float maximum_over_groups(float x) {
  x = DeviceMath::max(x, shuffle_xor(x, 4));
  x = DeviceMath::max(x, shuffle_xor(x, 8));
  return DeviceMath::max(x, shuffle_xor(x, 16));
}

/// Sums each of 8 values over the 8 groups of the warp; value i ends in `v[0]` of group i.
LAPAROFLOW_DEVICE void sum_over_groups(float (&v)[8], int lane) {
#pragma unroll
  for (int half = 4; half >= 1; half /= 2) {
    const bool upper = (lane & (4 * half)) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float keep = upper ? v[i + half] : v[i];
      const float send = upper ? v[i] : v[i + half];
      v[i] = keep + shuffle_xor(send, 4 * half);
    }
  }
}

/// Row sums of one thread over its columns, and the sweep over one tile of logits.
template <class Engine, int kRowTiles, class Options, bool kSymmetric>
struct TileStatistics {
  static constexpr int kRows = 2 * kRowTiles;
  static constexpr int kColumns = Engine::kColumns;
  Partial sums[kRows];

  /// `c` holds x = q . k of the warp's tile; `columns` receives the warp's column sums
  /// [components, kColumns] when symmetric.
  LAPAROFLOW_DEVICE void add_tile(const float (&c)[kRowTiles][Engine::kColumnTiles][4],
                                  const RowFlows<Options, kRowTiles>& flows, const Options& options,
                                  const ColumnStage<Engine>& stage, bool has_weights, float scale, float gain,
                                  const float (&row_bias)[kRows], float* columns) {
    const Lane at;
    Partial tile[kRows];  // sums of this tile alone, so that long sums stay accurate
#pragma unroll
    for (int n = 0; n < Engine::kColumnTiles; ++n) {
      const int column = n * 8 + 2 * at.quad;
      Weight w[kRows][2];
      if (has_weights) {
        flows.weights(w, options, stage, column, gain, row_bias);
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r) w[r][0] = w[r][1] = Weight{kWeightFloor, 0.0f};
      }
      const FloatPair bias = load_pair(stage.logit_bias + column);
      float e[kRows][2], t_in[kRows][2];  // e: n e^s when bounded, else its exponent
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float x[2];
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          x[p] = c[r / 2][n][(r & 1) * 2 + p];
          const float s = DeviceMath::fma(x[p], scale, kSymmetric ? bias.at[p] + row_bias[r] : bias.at[p]);
          if (options.bounded) {
            e[r][p] = DeviceMath::exp2(s);
            if (options.dissimilar) e[r][p] *= 1.0f - w[r][p].value;
          } else {
            e[r][p] = denominator_exponent<DeviceMath>(
                options.dissimilar ? Negatives::kDissimilar : Negatives::kAll, s, w[r][p]);
          }
          t_in[r][p] = options.inside ? inside_exponent(s, w[r][p]) : 0.0f;
        }
        if (options.bounded)
          tile[r].l += e[r][0] + e[r][1];
        else
          add_exponents(sums[r].l, tile[r].l, sums[r].m, e[r][0], e[r][1]);
        if (options.inside)
          add_exponents(sums[r].a, tile[r].a, sums[r].m_in, t_in[r][0], t_in[r][1]);
        else
          tile[r].a = DeviceMath::fma(w[r][0].value, x[0], DeviceMath::fma(w[r][1].value, x[1], tile[r].a));
        tile[r].W += w[r][0].value + w[r][1].value;
        tile[r].h = DeviceMath::fma(w[r][0].value, w[r][0].log2, DeviceMath::fma(w[r][1].value, w[r][1].log2, tile[r].h));
      }
      if constexpr (kSymmetric) add_columns(c, n, w, e, t_in, options, columns);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      sums[r].l += tile[r].l;
      sums[r].W += tile[r].W;
      sums[r].a += tile[r].a;
      sums[r].h += tile[r].h;
    }
  }

  /// Column sums of this warp's rows for the 8 columns of column tile n.
  LAPAROFLOW_DEVICE void add_columns(const float (&c)[kRowTiles][Engine::kColumnTiles][4], int n,
                                     const Weight (&w)[kRows][2], const float (&e)[kRows][2],
                                     const float (&t_in)[kRows][2], const Options& options, float* columns) const {
    const Lane at;
    float v[8];
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      float l = 0.0f, W = 0.0f, a = 0.0f, h = 0.0f, m = kEmptyMaximum, m_in = kEmptyMaximum;
      if (!options.bounded) {
        for (int r = 0; r < kRows; ++r) m = DeviceMath::max(m, e[r][p]);
        m = maximum_over_groups(m);
      }
      if (options.inside) {
        for (int r = 0; r < kRows; ++r) m_in = DeviceMath::max(m_in, t_in[r][p]);
        m_in = maximum_over_groups(m_in);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        l += options.bounded ? e[r][p] : DeviceMath::exp2(e[r][p] - m);
        W += w[r][p].value;
        a = options.inside ? a + DeviceMath::exp2(t_in[r][p] - m_in)
                           : DeviceMath::fma(w[r][p].value, c[r / 2][n][(r & 1) * 2 + p], a);
        h = DeviceMath::fma(w[r][p].value, w[r][p].log2, h);
      }
      v[4 * p] = l;
      v[4 * p + 1] = W;
      v[4 * p + 2] = a;
      v[4 * p + 3] = h;
      if (at.group == 0 && !(options.bounded && !options.inside)) {
        columns[4 * kColumns + n * 8 + 2 * at.quad + p] = m;
        columns[5 * kColumns + n * 8 + 2 * at.quad + p] = m_in;
      }
    }
    sum_over_groups(v, at.lane);
    columns[(at.group & 3) * kColumns + n * 8 + 2 * at.quad + (at.group >> 2)] = v[0];
  }
};

template <class Engine, int kRowTiles, class Options, bool kSymmetric>
LAPAROFLOW_KERNEL(128, 2)
forward_kernel(ForwardArguments arguments) {
  if (!Engine::kCompiled) return stop_kernel();  // built without this engine's architecture
  constexpr int kRows = 2 * kRowTiles;
  constexpr int kColumns = Engine::kColumns;
  const Problem& problem = arguments.problem;
  const ForwardPlan& plan = arguments.plan;
  const bool batch = problem.scope == Scope::kBatch;
  const int components = partial_components(problem);
  const int row_count = plan.warps * 16 * kRowTiles;
  const int warp = thread_index() / 32;
  const Lane at;

  const std::int64_t column_slot = block_index() % plan.column_chunks;
  const std::int64_t row_slot = block_index() / plan.column_chunks % plan.row_chunks;
  const std::int64_t group = block_index() / plan.column_chunks / plan.row_chunks;
  float* row_partials = arguments.row_partials + column_slot * components * problem.row.total;
  float* column_partials = arguments.column_partials + (kSymmetric ? row_slot * components * problem.column.total : 0);

  const DepthLayout<Engine> layout(problem.depth);
  char* memory = shared_memory();
  const RowTile<Engine> row_tile(memory, row_count, layout.padded, problem.flow_width);
  memory += RowTile<Engine>::bytes(row_count, layout.padded, problem.flow_width);
  const int stage_bytes = ColumnStage<Engine>::bytes(layout.padded, problem.flow_width, 0);
  auto stage_at = [&](int tile) {
    return ColumnStage<Engine>(memory + (plan.stages == 2 && (tile & 1) ? stage_bytes : 0), layout.padded,
                               problem.flow_width);
  };
  float* warp_columns = reinterpret_cast<float*>(memory + plan.stages * stage_bytes);  // [warps, components, kColumns]

  const Options options(problem);
  const Engine engine{problem.full_float};
  const float scale = kLog2e / problem.temperature[0];
  bool fresh = true;  // nothing has been written to the column slot yet

  Range columns = batch ? Range{0, problem.column.total} : frame_range(problem.column, static_cast<int>(group));
  columns.begin += column_slot * plan.column_chunk * kColumns;
  if (columns.end > columns.begin + plan.column_chunk * kColumns) columns.end = columns.begin + plan.column_chunk * kColumns;
  const int tiles =
      columns.end > columns.begin ? static_cast<int>((columns.end - columns.begin + kColumns - 1) / kColumns) : 0;

  for (std::int64_t step = 0; step < plan.row_chunk; ++step) {
    const std::int64_t index = row_slot * plan.row_chunk + step;
    if (index >= plan.tiles_per_group) break;
    const int frame = static_cast<int>(batch ? index / plan.tiles_per_frame : group);
    const Range rows = frame_range(problem.row, frame);
    const std::int64_t first_row = rows.begin + (batch ? index % plan.tiles_per_frame : index) * row_count;
    if (first_row >= rows.end) continue;
    const WeightTiles weight_tiles(frame_range(problem.column, frame), columns.begin, kColumns);
    const float gain = weight_gain(options.flow_kernel, problem.inv_bandwidth[frame]);

    block_barrier();
    row_tile.load(problem, layout, rows, first_row, row_count);
    if (plan.stages == 2 && tiles > 0)
      stage_at(0).load(problem, layout, frame, columns.begin, nullptr, 0);

    TileStatistics<Engine, kRowTiles, Options, kSymmetric> statistics;
    RowFlows<Options, kRowTiles> flows(row_tile.flow, row_count, warp * 16 * kRowTiles, problem.flow_width);
    float row_bias[kRows];
    for (int r = 0; r < kRows; ++r) row_bias[r] = 0.0f;

    for (int tile = 0; tile < tiles; ++tile) {
      const std::int64_t first = columns.begin + static_cast<std::int64_t>(tile) * kColumns;
      if (plan.stages == 1) {
        stage_at(0).load(problem, layout, frame, first, nullptr, 0);
        copy_async_wait<0>();
      } else if (tile + 1 < tiles) {
        stage_at(tile + 1).load(problem, layout, frame, first + kColumns, nullptr, 0);
        copy_async_wait<1>();
      } else {
        copy_async_wait<0>();
      }
      Engine::publish();
      block_barrier();
      if (tile == 0) {
        flows.refresh();
        if constexpr (kSymmetric) {
#pragma unroll
          for (int r = 0; r < kRows; ++r) row_bias[r] = row_tile.bias[flows.row(r)];
        }
      }
      const ColumnStage<Engine> stage = stage_at(tile);
      float c[kRowTiles][Engine::kColumnTiles][4];
      engine.template logits<kRowTiles>(c, row_tile.embedding, row_count, stage.embedding, layout.padded);
      statistics.add_tile(c, flows, options, stage, weight_tiles.holds(tile), scale, gain, row_bias,
                          warp_columns + warp * components * kColumns);
      if constexpr (kSymmetric) {
        block_barrier();
        for (int j = thread_index(); j < kColumns; j += thread_count()) {
          if (first + j >= columns.end) continue;
          float* slot = column_partials + first + j;
          Partial sum;
          if (!fresh) sum = Partial::read(slot, problem.column.total, components);
          for (int v = 0; v < plan.warps; ++v)
            sum.merge(Partial::read(warp_columns + v * components * kColumns + j, kColumns, components),
                      options.bounded, options.inside);
          sum.write(slot, problem.column.total, components);
        }
      }
      block_barrier();
    }
    copy_async_wait<0>();
    fresh = false;

#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      Partial& sum = statistics.sums[r];
      sum.merge(sum.across(1, options.bounded, options.inside), options.bounded, options.inside);
      sum.merge(sum.across(2, options.bounded, options.inside), options.bounded, options.inside);
      const std::int64_t i = first_row + flows.row(r);
      if (at.quad == 0 && i < rows.end) sum.write(row_partials + i, problem.row.total, components);
    }
  }

  if (kSymmetric && fresh)
    for (std::int64_t j = columns.begin + thread_index(); j < columns.end; j += thread_count())
      Partial().write(column_partials + j, problem.column.total, components);
}

}  // namespace laparoflow::cuda
