// Gradient of the flow-weighted contrastive loss with respect to one side, the "rows".
//
//   dS_ij = a_i n e^(s - lse_i) + b_i w / W_i             (outside; a = dL/dlse, b = dL/dpositive)
//         + a'_j n e^(s - lse'_j) + b'_j w / W'_j         (symmetric: the same of column j)
//           inside: b_i w e^(s - positive_i) in place of b_i w / W_i
//   drow_i = sum_j dS_ij column_j / temperature           dtemperature = -sum_ij dS_ij s_ij / temperature
//
// dS is symmetric in its two sides, so the gradient of the keys is the same kernel with the sides
// exchanged. One block owns a row tile, sweeps all columns and keeps drow in registers: no atomics,
// a fixed order of summation, no workspace of N x D; the price is that S is computed once per side.
// dS is formed in float32 and only then rounded for the second product. For float16 it is first
// multiplied by a power of two that brings the largest coefficient near 2^12, else it would underflow.
#pragma once

#include "tiles.cuh"

namespace laparoflow::cuda {

// Coefficients of a row: what dS needs of its statistics and upstream gradients, zero where the
// row has none. [kCoefficients, total]
constexpr int kCoefficients = 4;
enum Coefficient : int {
  kDenominator = 0,   // a, or a e^-lse when bounded
  kLogSum = 1,        // lse in base 2 (unbounded)
  kPositive = 2,      // b / W (outside) or b (inside)
  kPositiveLog = 3,   // positive in base 2 (inside)
};

struct BackwardPlan {
  int warps = 4, stages = 2, shared_bytes = 0;
  std::int64_t tiles_per_frame = 0;
  std::int64_t blocks = 0;
};

struct BackwardArguments {
  Problem problem;
  BackwardPlan plan;
  const float* row_coefficients = nullptr;     // [kCoefficients, row.total] or null
  const float* column_coefficients = nullptr;  // [kCoefficients, column.total] or null
  const float* loss_scale = nullptr;           // [1]: the power of two in the coefficients
  void* gradient = nullptr;                    // [row.total, depth] or null
  float* temperature_partials = nullptr;       // [blocks]: sum dS x, times the loss scale; or null
};

/// Turns the logits of a tile into dS in place. Row coefficients are in registers.
template <class Engine, int kRowTiles, class Options>
struct TileGradient {
  static constexpr int kRows = 2 * kRowTiles;
  static constexpr int kColumns = Engine::kColumns;
  float row[kCoefficients][kRows];
  float temperature[kRows];  // sum_j dS_ij x_ij
  bool row_terms, column_terms, wants_temperature;

  LAPAROFLOW_DEVICE void read_rows(const BackwardArguments& arguments, Range rows, std::int64_t first, int stride_rows) {
    row_terms = arguments.row_coefficients != nullptr;
    column_terms = arguments.column_coefficients != nullptr;
    wants_temperature = arguments.temperature_partials != nullptr;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      temperature[r] = 0.0f;
      const std::int64_t i = first + r * stride_rows;
#pragma unroll
      for (int q = 0; q < kCoefficients; ++q)
        row[q][r] = row_terms && i < rows.end ? arguments.row_coefficients[q * arguments.problem.row.total + i] : 0.0f;
    }
  }

  LAPAROFLOW_DEVICE FloatPair column_pair(const ColumnStage<Engine>& stage, int q, int column) const {
    if (column_terms) return load_pair(stage.coefficient + q * kColumns + column);
    return FloatPair{{0.0f, 0.0f}};
  }

  LAPAROFLOW_DEVICE void apply(float (&c)[kRowTiles][Engine::kColumnTiles][4],
                               const RowFlows<Options, kRowTiles>& flows, const Options& options,
                               const ColumnStage<Engine>& stage, bool has_weights, float scale, float gain) {
    const Lane at;
    float no_bias[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) no_bias[r] = 0.0f;
#pragma unroll
    for (int n = 0; n < Engine::kColumnTiles; ++n) {
      const int column = n * 8 + 2 * at.quad;
      Weight w[kRows][2];
      if (has_weights) {
        flows.weights(w, options, stage, column, gain, no_bias);
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r) w[r][0] = w[r][1] = Weight{kWeightFloor, 0.0f};
      }
      const FloatPair bias = load_pair(stage.logit_bias + column);
      const FloatPair denominator = column_pair(stage, kDenominator, column);
      const FloatPair positive = column_pair(stage, kPositive, column);
      FloatPair log_sum{{0.0f, 0.0f}}, positive_log{{0.0f, 0.0f}};
      if (!options.bounded) log_sum = column_pair(stage, kLogSum, column);
      if (options.inside) positive_log = column_pair(stage, kPositiveLog, column);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          float& x = c[r / 2][n][(r & 1) * 2 + p];
          const float s = DeviceMath::fma(x, scale, bias.at[p]);
          float ds;
          if (options.bounded) {
            float e = DeviceMath::exp2(s);
            if (options.dissimilar) e *= 1.0f - w[r][p].value;
            ds = e * (row[kDenominator][r] + denominator.at[p]);
          } else {
            const float t = denominator_exponent<DeviceMath>(
                options.dissimilar ? Negatives::kDissimilar : Negatives::kAll, s, w[r][p]);
            ds = 0.0f;
            if (row_terms) ds = row[kDenominator][r] * DeviceMath::exp2(t - row[kLogSum][r]);
            if (column_terms) ds = DeviceMath::fma(denominator.at[p], DeviceMath::exp2(t - log_sum.at[p]), ds);
          }
          if (options.inside) {
            const float t = inside_exponent(s, w[r][p]);
            if (row_terms) ds = DeviceMath::fma(row[kPositive][r], DeviceMath::exp2(t - row[kPositiveLog][r]), ds);
            if (column_terms) ds = DeviceMath::fma(positive.at[p], DeviceMath::exp2(t - positive_log.at[p]), ds);
          } else {
            ds = DeviceMath::fma(w[r][p].value, row[kPositive][r] + positive.at[p], ds);
          }
          if (wants_temperature) temperature[r] = DeviceMath::fma(ds, x, temperature[r]);
          x = ds;
        }
    }
  }
};

template <class Engine, int kRowTiles, int kDepthTiles, class Options>
LAPAROFLOW_KERNEL(kRowTiles == 2 ? 128 : 256, kRowTiles == 2 ? 2 : 1)
backward_kernel(BackwardArguments arguments) {
  if (!Engine::kCompiled) return stop_kernel();  // built without this engine's architecture
  constexpr int kRows = 2 * kRowTiles;
  constexpr int kColumns = Engine::kColumns;
  using Type = typename Engine::Type;
  const Problem& problem = arguments.problem;
  const BackwardPlan& plan = arguments.plan;
  const int row_count = plan.warps * 16 * kRowTiles;
  const int warp = thread_index() / 32;
  const Lane at;
  const int frame = static_cast<int>(block_index() / plan.tiles_per_frame);
  const Range rows = frame_range(problem.row, frame);
  const std::int64_t first_row = rows.begin + block_index() % plan.tiles_per_frame * row_count;
  if (first_row >= rows.end) {
    if (arguments.temperature_partials != nullptr && thread_index() == 0)
      arguments.temperature_partials[block_index()] = 0.0f;
    return;
  }
  const Range columns = denominator_range(problem, frame);
  const std::int64_t first_column = columns.begin;
  const int tiles = static_cast<int>((columns.end - columns.begin + kColumns - 1) / kColumns);
  const WeightTiles weight_tiles(frame_range(problem.column, frame), first_column, kColumns);

  const DepthLayout<Engine> layout(problem.depth);
  char* memory = shared_memory();
  const RowTile<Engine> row_tile(memory, row_count, layout.padded, problem.flow_width);
  memory += RowTile<Engine>::bytes(row_count, layout.padded, problem.flow_width);
  const int coefficients = arguments.column_coefficients != nullptr ? kCoefficients : 0;
  const int stage_bytes = ColumnStage<Engine>::bytes(layout.padded, problem.flow_width, kCoefficients);
  auto stage_at = [&](int tile) {
    return ColumnStage<Engine>(memory + (plan.stages == 2 && (tile & 1) ? stage_bytes : 0), layout.padded,
                               problem.flow_width);
  };
  auto load = [&](int tile) {
    stage_at(tile).load(problem, layout, frame, first_column + static_cast<std::int64_t>(tile) * kColumns,
                        arguments.column_coefficients, coefficients);
  };

  const Options options(problem);
  const Engine engine{problem.full_float};
  const float temperature = problem.temperature[0];
  const float scale = kLog2e / temperature;
  const float gain = weight_gain(options.flow_kernel, problem.inv_bandwidth[frame]);
  const bool wants_gradient = arguments.gradient != nullptr;

  row_tile.load(problem, layout, rows, first_row, row_count);
  if (plan.stages == 2 && tiles > 0) load(0);
  RowFlows<Options, kRowTiles> flows(row_tile.flow, row_count, warp * 16 * kRowTiles, problem.flow_width);
  TileGradient<Engine, kRowTiles, Options> tile_gradient;
  tile_gradient.read_rows(arguments, rows, first_row + flows.row(0), 8);
  float g[kRowTiles][kDepthTiles][4];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (int d = 0; d < kDepthTiles; ++d)
#pragma unroll
      for (int e = 0; e < 4; ++e) g[m][d][e] = 0.0f;

  for (int tile = 0; tile < tiles; ++tile) {
    if (plan.stages == 1) {
      load(tile);
      copy_async_wait<0>();
    } else if (tile + 1 < tiles) {
      load(tile + 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    Engine::publish();
    block_barrier();
    if (tile == 0) flows.refresh();
    const ColumnStage<Engine> stage = stage_at(tile);
    float c[kRowTiles][Engine::kColumnTiles][4];
    engine.template logits<kRowTiles>(c, row_tile.embedding, row_count, stage.embedding, layout.padded);
    tile_gradient.apply(c, flows, options, stage, weight_tiles.holds(tile), scale, gain);
    if (wants_gradient) engine.gradient(g, c, stage.embedding, layout.padded);
    block_barrier();
  }
  copy_async_wait<0>();
  block_barrier();

  if (wants_gradient) {
    const float factor = 1.0f / (temperature * arguments.loss_scale[0]);
    Type* out = static_cast<Type*>(arguments.gradient);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const std::int64_t i = first_row + flows.row(r);
      if (i >= rows.end) continue;
      const float keep = row_tile.bias[flows.row(r)] == 0.0f ? factor : 0.0f;
#pragma unroll
      for (int d = 0; d < kDepthTiles; ++d) {
        const int column = d * 8 + 2 * at.quad;
        if (column < problem.depth)
          store_pair(out + i * problem.depth + column, g[r / 2][d][(r & 1) * 2] * keep,
                     g[r / 2][d][(r & 1) * 2 + 1] * keep, column + 1 < problem.depth);
      }
    }
  }
  if (arguments.temperature_partials != nullptr) {
    float sum = 0.0f;
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum += row_tile.bias[flows.row(r)] == 0.0f ? tile_gradient.temperature[r] : 0.0f;
    for (int mask = 1; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
    float* warp_sums = reinterpret_cast<float*>(memory);
    if (at.lane == 0) warp_sums[warp] = sum;
    block_barrier();
    if (thread_index() == 0) {
      float total = 0.0f;
      for (int v = 0; v < plan.warps; ++v) total += warp_sums[v];
      arguments.temperature_partials[block_index()] = total;
    }
  }
}

}  // namespace laparoflow::cuda
