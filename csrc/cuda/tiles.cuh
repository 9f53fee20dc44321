// The tile loop that forward and backward share: which rows and columns a block works on, and how
// they get from global to shared memory.
//
// A column stage holds one column tile: embeddings (cp.async, in flight while the previous tile is
// computed) and per column the flow, two biases (0, or kExcluded for columns that do not count in
// the denominator / in the weights) and, in the backward, four coefficients.
// Masked and out-of-range rows are never read: zeros stand in for them, so NaN under a mask stays out.
#pragma once

#include "arguments.h"
#include "engines_sm80.cuh"

namespace laparoflow::cuda {

constexpr int kMaxFlow = 8;
constexpr int kFixedFlow = 2;  // flow components held in registers by the default options

struct alignas(8) FloatPair {
  float at[2];
};
LAPAROFLOW_DEVICE FloatPair load_pair(const float* from) { return *reinterpret_cast<const FloatPair*>(from); }

struct Range {
  std::int64_t begin, end;
  LAPAROFLOW_DEVICE bool holds(std::int64_t i) const { return i >= begin && i < end; }
};

LAPAROFLOW_DEVICE Range frame_range(const Side& side, int frame) {
  return {side.offsets[frame], side.offsets[frame + 1]};
}
/// The columns in the denominator of a row of `frame`.
LAPAROFLOW_DEVICE Range denominator_range(const Problem& problem, int frame) {
  return problem.scope == Scope::kBatch ? Range{0, problem.column.total} : frame_range(problem.column, frame);
}
LAPAROFLOW_DEVICE bool counts(const Side& side, Range range, std::int64_t i) {
  return range.holds(i) && (side.mask == nullptr || side.mask[i] != 0);
}

/// The depth as it is and padded to the engine's step.
template <class Engine>
struct DepthLayout {
  int depth, padded;
  LAPAROFLOW_HOST_DEVICE explicit DepthLayout(int depth_)
      : depth(depth_), padded((depth_ + Engine::kDepthStep - 1) / Engine::kDepthStep * Engine::kDepthStep) {}
};

/// Starts the copy of `count` embedding rows from `first` to shared memory; 8 threads share a row.
template <class Engine>
LAPAROFLOW_DEVICE void load_embeddings(typename Engine::Type* to, const Side& side, Range range, std::int64_t first,
                                       int count, const DepthLayout<Engine>& layout, bool aligned) {
  using Type = typename Engine::Type;
  constexpr int kThreadsPerRow = 8;
  const Type* from = static_cast<const Type*>(side.embedding);
  const int chunk = thread_index() % kThreadsPerRow;
#pragma unroll 1
  for (int r = thread_index() / kThreadsPerRow; r < count; r += thread_count() / kThreadsPerRow) {
    const std::int64_t i = first + r;
    const bool valid = counts(side, range, i);
    const Type* row = from + (valid ? i * layout.depth : 0);
    auto target = [&](int d) { return to + Engine::tile_offset(r, d, count, layout.padded); };
    if (aligned) {
#pragma unroll 1
      for (int d = chunk * Engine::kVector; d < layout.padded; d += kThreadsPerRow * Engine::kVector) {
        const bool inside = valid && d < layout.depth;
        copy_async_16(target(d), inside ? row + d : from, inside);
      }
    } else {
#pragma unroll 1
      for (int d = chunk; d < layout.padded; d += kThreadsPerRow) {
        Type x{};
        if (valid && d < layout.depth) x = row[d];
        *target(d) = x;
      }
    }
  }
}

/// Flows [F][count] of `count` rows, zero where a row does not count; F is padded to kFixedFlow.
LAPAROFLOW_DEVICE void load_flows(float* to, const Side& side, Range range, std::int64_t first, int count, int width) {
  const int padded = width < kFixedFlow ? kFixedFlow : width;
#pragma unroll 1
  for (int r = thread_index(); r < count; r += thread_count()) {
    const std::int64_t i = first + r;
    const bool valid = counts(side, range, i);
#pragma unroll 1
    for (int f = 0; f < padded; ++f) to[f * count + r] = valid && f < width ? side.flow[i * width + f] : 0.0f;
  }
}

/// Shared memory of one column stage.
template <class Engine>
struct ColumnStage {
  static constexpr int kColumns = Engine::kColumns;
  typename Engine::Type* embedding;  // [kColumns, depth] by tile_offset
  float* flow;                       // [max(F, 2), kColumns]
  float* logit_bias;                 // [kColumns]
  float* weight_bias;                // [kColumns]
  float* coefficient;                // [kCoefficients, kColumns]

  LAPAROFLOW_HOST_DEVICE static int bytes(int depth, int flow_width, int coefficients) {
    const int flows = flow_width < kFixedFlow ? kFixedFlow : flow_width;
    return Engine::tile_bytes(kColumns, depth) + kColumns * (flows + 2 + coefficients) * 4;
  }

  LAPAROFLOW_DEVICE ColumnStage(char* memory, int depth, int flow_width) {
    const int flows = flow_width < kFixedFlow ? kFixedFlow : flow_width;
    embedding = reinterpret_cast<typename Engine::Type*>(memory);
    flow = reinterpret_cast<float*>(memory + Engine::tile_bytes(kColumns, depth));
    logit_bias = flow + flows * kColumns;
    weight_bias = logit_bias + kColumns;
    coefficient = weight_bias + kColumns;
  }

  /// Starts the copies of the tile at column `first` for rows of `frame`. `coefficients` is
  /// [kCoefficients, total] or null. The ranges are read again here: held across the loop over tiles they
  /// would cost the gradient its registers.
  LAPAROFLOW_DEVICE void load(const Problem& problem, const DepthLayout<Engine>& layout, int frame_index,
                              std::int64_t first, const float* coefficients, int coefficient_count) const {
    const Side& side = problem.column;
    const Range frame = frame_range(side, frame_index);
    const Range range = denominator_range(problem, frame_index);
    load_embeddings<Engine>(embedding, side, range, first, kColumns, layout, problem.aligned);
    load_flows(flow, side, range, first, kColumns, problem.flow_width);
#pragma unroll 1
    for (int c = thread_index(); c < kColumns; c += thread_count()) {
      const std::int64_t j = first + c;
      const bool valid = counts(side, range, j);
      logit_bias[c] = valid ? 0.0f : kExcluded;
      weight_bias[c] = valid && frame.holds(j) ? 0.0f : kExcluded;
#pragma unroll 1
      for (int q = 0; q < coefficient_count; ++q)
        coefficient[q * kColumns + c] = valid ? coefficients[q * side.total + j] : 0.0f;
    }
    copy_async_commit();
  }
};

/// Shared memory of the row tile.
template <class Engine>
struct RowTile {
  typename Engine::Type* embedding;  // [rows, depth] by tile_offset
  float* flow;                       // [max(F, 2), rows]
  float* bias;                       // [rows]: 0, or kExcluded for a row that does not count

  LAPAROFLOW_HOST_DEVICE static int bytes(int rows, int depth, int flow_width) {
    const int flows = flow_width < kFixedFlow ? kFixedFlow : flow_width;
    return Engine::tile_bytes(rows, depth) + rows * (flows + 1) * 4;
  }
  LAPAROFLOW_DEVICE RowTile(char* memory, int rows, int depth, int flow_width) {
    const int flows = flow_width < kFixedFlow ? kFixedFlow : flow_width;
    embedding = reinterpret_cast<typename Engine::Type*>(memory);
    flow = reinterpret_cast<float*>(memory + Engine::tile_bytes(rows, depth));
    bias = flow + flows * rows;
  }
  LAPAROFLOW_DEVICE void load(const Problem& problem, const DepthLayout<Engine>& layout, Range range,
                              std::int64_t first, int rows) const {
    load_embeddings<Engine>(embedding, problem.row, range, first, rows, layout, problem.aligned);
    load_flows(flow, problem.row, range, first, rows, problem.flow_width);
#pragma unroll 1
    for (int r = thread_index(); r < rows; r += thread_count())
      bias[r] = counts(problem.row, range, first + r) ? 0.0f : kExcluded;
    copy_async_commit();
  }
};

/// The column tiles of a sweep from `begin` that hold columns of the row's own frame; others have no weights.
struct WeightTiles {
  int first, last;
  LAPAROFLOW_DEVICE WeightTiles(Range frame, std::int64_t begin, int columns) {
    const std::int64_t from = frame.begin - begin, to = frame.end - begin;
    first = from <= 0 ? 0 : static_cast<int>(from / columns);
    last = to <= 0 || to <= from ? 0 : static_cast<int>((to + columns - 1) / columns);
  }
  LAPAROFLOW_DEVICE bool holds(int tile) const { return tile >= first && tile < last; }
};

/// The options of the loss as compile-time constants for the default form ...
struct FixedOptions {
  static constexpr bool kFixed = true;
  static constexpr FlowKernel flow_kernel = FlowKernel::kGaussian;
  static constexpr bool inside = false;
  static constexpr bool dissimilar = false;
  static constexpr bool bounded = true;
  LAPAROFLOW_DEVICE explicit FixedOptions(const Problem&) {}
  LAPAROFLOW_HOST_DEVICE static bool serves(const Problem& p) {
    return p.flow_kernel == FlowKernel::kGaussian && p.positives == Positives::kOutside &&
           p.negatives == Negatives::kAll && p.bounded && p.flow_width <= kFixedFlow;
  }
};

/// ... and read at run time for all others; the kernels are written once over both.
struct GeneralOptions {
  static constexpr bool kFixed = false;
  FlowKernel flow_kernel;
  bool inside, dissimilar, bounded;
  LAPAROFLOW_DEVICE explicit GeneralOptions(const Problem& p)
      : flow_kernel(p.flow_kernel),
        inside(p.positives == Positives::kInside),
        dissimilar(p.negatives == Negatives::kDissimilar),
        bounded(p.bounded) {}
};

/// The row side of the pairs of one thread: 2 rows in each of its kRowTiles row tiles.
template <class Options, int kRowTiles>
struct RowFlows {
  static constexpr int kRows = 2 * kRowTiles;
  float fixed[kRows][kFixedFlow];
  const float* shared;  // [F, row_count]
  int row_count, first_row, width;

  LAPAROFLOW_DEVICE RowFlows(const float* flows, int row_count_, int warp_row, int width_)
      : shared(flows), row_count(row_count_), first_row(warp_row + Lane().group), width(width_) {}

  LAPAROFLOW_DEVICE int row(int r) const { return first_row + r * 8; }

  /// Reads the flows of a new row tile; they must be visible in shared memory.
  LAPAROFLOW_DEVICE void refresh() {
    if constexpr (Options::kFixed) {
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int f = 0; f < kFixedFlow; ++f) fixed[r][f] = shared[f * row_count + row(r)];
    }
  }

  /// Squared flow differences to columns `column` and `column + 1`.
  template <class Stage>
  LAPAROFLOW_DEVICE void squared_differences(float (&r2)[kRows][2], const Stage& stage, int column) const {
    if constexpr (Options::kFixed) {
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        const float gx = load_pair(stage.flow + column).at[p];
        const float gy = load_pair(stage.flow + Stage::kColumns + column).at[p];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float dx = fixed[r][0] - gx, dy = fixed[r][1] - gy;
          r2[r][p] = DeviceMath::fma(dy, dy, dx * dx);
        }
      }
    } else {
#pragma unroll
      for (int r = 0; r < kRows; ++r) r2[r][0] = r2[r][1] = 0.0f;
#pragma unroll 1
      for (int f = 0; f < width; ++f) {
        const FloatPair g = load_pair(stage.flow + f * Stage::kColumns + column);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float x = shared[f * row_count + row(r)];
          r2[r][0] = DeviceMath::fma(x - g.at[0], x - g.at[0], r2[r][0]);
          r2[r][1] = DeviceMath::fma(x - g.at[1], x - g.at[1], r2[r][1]);
        }
      }
    }
  }

  /// Weights of the thread's pairs in `column` and `column + 1`; row_bias as in ColumnStage, or 0.
  /// Of the exponentials, kPolynomialShare of 4 run on the multiply-add units, the rest on the exp unit.
  template <class Stage>
  LAPAROFLOW_DEVICE void weights(Weight (&w)[kRows][2], const Options& options, const Stage& stage, int column,
                                 float gain, const float (&row_bias)[kRows]) const {
    float r2[kRows][2];
    squared_differences(r2, stage, column);
    const FloatPair bias = load_pair(stage.weight_bias + column);
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int p = 0; p < 2; ++p)
        w[r][p] = pair_weight<DeviceMath>(options.flow_kernel, r2[r][p], gain, bias.at[p] + row_bias[r],
                                          (2 * r + p) % 4 < kPolynomialShare);
  }

  static constexpr int kPolynomialShare = 3;
};

}  // namespace laparoflow::cuda
