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

#include "feed.cuh"
#include "partial.cuh"

namespace laparoflow::cuda {

struct ForwardPlan {
  int warps = 4, stages = 2, feed_bytes = 0, shared_bytes = 0;
  std::size_t record_bytes = 0;      // workspace of the feed's records
  std::int64_t tiles_per_frame = 0;  // row tiles of the longest frame
  std::int64_t tiles_per_group = 0;  // row tiles that share their columns: one frame, or the batch
  std::int64_t groups = 0;
  std::int64_t row_chunk = 1, row_chunks = 0;  // tiles in a rectangle, rectangles in a group
  std::int64_t column_chunk = 1, column_chunks = 0;
  std::int64_t capacity = 0;  // pairs that its waves of blocks have room for
  std::int64_t blocks() const { return groups * row_chunks * column_chunks; }
};

struct ForwardArguments {
  Problem problem;
  ForwardPlan plan;
  float* row_partials = nullptr;     // [column_chunks, components, row.total]
  float* column_partials = nullptr;  // [row_chunks, components, column.total], only when symmetric
  Records row_records, column_records;
};

LAPAROFLOW_DEVICE FeedArguments feed_arguments(const ForwardArguments& a, int row_count) {
  return {&a.problem, a.plan.warps, a.plan.stages, row_count, nullptr, 0, a.row_records, a.column_records};
}

/// Adds two exponents to a sum of 2^(t - m), moving the maximum when it rises.
LAPAROFLOW_DEVICE void add_exponents(float& sum, float& tile_sum, float& m, Exponent t0, Exponent t1, float scale) {
  const float top = DeviceMath::max(t0.value(scale), t1.value(scale));
  if (top > m) {
    const float factor = DeviceMath::exp2(m - top);
    sum *= factor;
    tile_sum *= factor;
    m = top;
  }
  tile_sum += DeviceMath::exp2(t0.above(m, scale)) + DeviceMath::exp2(t1.above(m, scale));
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

  /// `c` holds x = q . k of the warp's tile; `columns` receives the warp's column sums [components, kColumns] when
  /// symmetric; `row_mark` is 1 for a row that counts and 0 for others when bounded, else 0 and kExcluded.
  template <class Weights>
  LAPAROFLOW_DEVICE void add_tile(const float (&c)[kRowTiles][Engine::kColumnTiles][4], Weights weights,
                                  const Options& options, const ColumnStage<Engine>& stage, float scale,
                                  const float (&row_mark)[kRows], float* columns) {
    constexpr bool kWeights = Weights::kAny;
    const Lane at;
    Partial tile[kRows];  // sums of this tile alone, so that long sums stay accurate; h in units of the weights' log2_unit
    FloatQuad mark;
#pragma unroll
    for (int n = 0; n < Engine::kColumnTiles; ++n) {
      if (n % 2 == 0) mark = load_quad(stage.mark + n * 8 + 4 * at.quad);
      Weight w[kRows][2];
      weights.get(w, n);
      float e[kRows][2];  // n e^s when bounded (fixed: without the column's mark)
      Exponent t[kRows][2], t_in[kRows][2];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float x[2];
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          x[p] = c[r / 2][n][(r & 1) * 2 + p];
          const float m = mark.at[n % 2 * 2 + p], b = bias_of<Options>(m, w[r][p]);
          if constexpr (Options::kFixed) {
            e[r][p] = fixed_exponential<Engine>(x[p], scale, r, p, kWeights);
            tile[r].l = DeviceMath::fma(e[r][p], m, tile[r].l);
          } else {
            t[r][p] = {x[p], kSymmetric && !options.bounded ? b + row_mark[r] : b,
                       options.bounded ? 0.0f : denominator_factor(options.dissimilar, w[r][p])};
            t_in[r][p] = {x[p], t[r][p].mark, inside_factor(w[r][p])};
            if (options.bounded) e[r][p] = DeviceMath::exp2(t[r][p].value(scale));
            if (options.bounded && options.dissimilar) e[r][p] *= 1.0f - w[r][p].value;
          }
        }
        if (options.bounded && !Options::kFixed)
          tile[r].l += e[r][0] + e[r][1];
        else if (!options.bounded)
          add_exponents(sums[r].l, tile[r].l, sums[r].m, t[r][0], t[r][1], scale);
        if constexpr (kWeights) {
          if constexpr (Options::kFixedInside)
            tile[r].a = DeviceMath::fma(w[r][0].value, e[r][0], DeviceMath::fma(w[r][1].value, e[r][1], tile[r].a));
          else if (options.inside)
            add_exponents(sums[r].a, tile[r].a, sums[r].m_in, t_in[r][0], t_in[r][1], scale);
          else
            tile[r].a = DeviceMath::fma(w[r][0].value, x[0], DeviceMath::fma(w[r][1].value, x[1], tile[r].a));
          if constexpr (Options::kFixedInside && !Options::kWeightStats)  // whether there is any
            tile[r].W = any_weight(tile[r].W, w[r][0].value, w[r][1].value);
          else
            tile[r].W += w[r][0].value + w[r][1].value;
          if constexpr (Options::kWeightStats)
            tile[r].h =
                DeviceMath::fma(w[r][0].value, w[r][0].log2, DeviceMath::fma(w[r][1].value, w[r][1].log2, tile[r].h));
        }
      }
      if constexpr (kSymmetric) add_columns(c, n, w, e, t, t_in, scale, options, row_mark, weights.log2_unit(), columns);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      sums[r].l += tile[r].l;
      sums[r].W += tile[r].W;
      if constexpr (!(Options::kFixedInside))
        sums[r].a += tile[r].a;
      else if constexpr (kWeights)
        add_inside(c, weights, r, tile[r].a, tile[r].W, scale);
      if constexpr (Options::kWeightStats) sums[r].h = DeviceMath::fma(tile[r].h, weights.log2_unit(), sums[r].h);
    }
  }

  /// Adds a tile's sum of w e^s to that of row r; a tiny one is formed anew from exponents, relative to a maximum.
  template <class Weights>
  LAPAROFLOW_DEVICE void add_inside(const float (&c)[kRowTiles][Engine::kColumnTiles][4], Weights& weights, int r,
                                    float tile_sum, float tile_weights, float scale) {
    Partial& sum = sums[r];
    float held = sum.a;
    if (sum.m_in != 0.0f) held *= DeviceMath::exp2(sum.m_in);
    if (tile_weights == 0.0f) return;
    if (held + tile_sum >= kTinyInside) {
      sum.a = held + tile_sum;
      sum.m_in = 0.0f;
      return;
    }
    sum.m_in = sum.a > 0.0f ? sum.m_in + DeviceMath::log2(sum.a) : kEmptyMaximum;
    sum.a = sum.a > 0.0f ? 1.0f : 0.0f;
    float added = 0.0f;
#pragma unroll
    for (int n = 0; n < Engine::kColumnTiles; ++n) {
      Weight w[kRows][2];
      weights.get(w, n);
      Exponent t[2];
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        w[r][p].log2 *= weights.log2_unit();
        t[p] = {c[r / 2][n][(r & 1) * 2 + p], 0.0f, inside_factor(w[r][p])};
      }
      add_exponents(sum.a, added, sum.m_in, t[0], t[1], scale);
    }
    sum.a += added;
  }

  /// Writes the sums of the warp's rows, from `first` on, over all its threads.
  LAPAROFLOW_DEVICE void write_rows(float* to, std::int64_t total, int components, std::int64_t first, std::int64_t end,
                                    const Options& options) const {
    const Lane at;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      Partial sum = sums[r];
      sum.merge(sum.across(1, options.bounded, options.inside), options.bounded, options.inside);
      sum.merge(sum.across(2, options.bounded, options.inside), options.bounded, options.inside);
      const std::int64_t i = first + at.group + r * 8;
      if (at.quad == 0 && i < end) sum.write(to + i, total, components);
    }
  }

  /// Column sums of this warp's rows for the 8 columns of column tile n.
  LAPAROFLOW_DEVICE void add_columns(const float (&c)[kRowTiles][Engine::kColumnTiles][4], int n,
                                     const Weight (&w)[kRows][2], const float (&e)[kRows][2], const Exponent (&t)[kRows][2],
                                     const Exponent (&t_in)[kRows][2], float scale, const Options& options,
                                     const float (&row_mark)[kRows], float log2_unit, float* columns) const {
    const Lane at;
    float v[8];
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      float l = 0.0f, W = 0.0f, a = 0.0f, h = 0.0f, m = kEmptyMaximum, m_in = kEmptyMaximum;
      if (!options.bounded) {
        for (int r = 0; r < kRows; ++r) m = DeviceMath::max(m, t[r][p].value(scale));
        m = maximum_over_groups(m);
      }
      if (options.inside) {
        for (int r = 0; r < kRows; ++r) m_in = DeviceMath::max(m_in, t_in[r][p].value(scale));
        m_in = maximum_over_groups(m_in);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (options.bounded)
          l = DeviceMath::fma(e[r][p], row_mark[r], l);
        else
          l += DeviceMath::exp2(t[r][p].above(m, scale));
        W += w[r][p].value;
        a = options.inside ? a + DeviceMath::exp2(t_in[r][p].above(m_in, scale))
                           : DeviceMath::fma(w[r][p].value, c[r / 2][n][(r & 1) * 2 + p], a);
        if constexpr (Options::kWeightStats) h = DeviceMath::fma(w[r][p].value, w[r][p].log2, h);
      }
      v[4 * p] = l;
      v[4 * p + 1] = W;
      v[4 * p + 2] = a;
      v[4 * p + 3] = h * log2_unit;
      if (at.group == 0 && !(options.bounded && !options.inside)) {
        columns[4 * kColumns + n * 8 + 2 * at.quad + p] = m;
        columns[5 * kColumns + n * 8 + 2 * at.quad + p] = m_in;
      }
    }
    sum_over_groups(v, at.lane);
    columns[(at.group & 3) * kColumns + n * 8 + 2 * at.quad + (at.group >> 2)] = v[0];
  }
};

/// The row tiles of a block's rectangle.
struct Rectangle {
  const Problem& problem;
  const ForwardPlan& plan;
  std::int64_t column_slot, row_slot, group;

  LAPAROFLOW_DEVICE Rectangle(const Problem& problem_, const ForwardPlan& plan_)
      : problem(problem_),
        plan(plan_),
        column_slot(block_index() % plan.column_chunks),
        row_slot(block_index() / plan.column_chunks % plan.row_chunks),
        group(block_index() / plan.column_chunks / plan.row_chunks) {}

  /// Calls `visit(frame, first row, end of the frame's rows)` for each row tile that has rows.
  template <class Visit>
  LAPAROFLOW_DEVICE void each_row_tile(int row_count, Visit visit) const {
    const bool batch = problem.scope == Scope::kBatch;
#pragma unroll 1
    for (std::int64_t step = 0; step < plan.row_chunk; ++step) {
      const std::int64_t index = row_slot * plan.row_chunk + step;
      if (index >= plan.tiles_per_group) break;
      const int frame = static_cast<int>(batch ? index / plan.tiles_per_frame : group);
      const Range rows = frame_range(problem.row, frame);
      const std::int64_t first_row = rows.begin + (batch ? index % plan.tiles_per_frame : index) * row_count;
      if (first_row < rows.end) visit(frame, first_row, rows.end);
    }
  }
};

}  // namespace laparoflow::cuda
