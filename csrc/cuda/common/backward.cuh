// Gradient of the flow-weighted contrastive loss with respect to one side, the "rows".
//
//   dS_ij = a_i n e^(s - lse_i) + b_i w / W_i             (outside; a = dL/dlse, b = dL/dpositive)
//         + a'_j n e^(s - lse'_j) + b'_j w / W'_j         (symmetric: the same of column j)
//           inside: b_i w e^(s - positive_i) in place of b_i w / W_i
//   drow_i = sum_j dS_ij column_j / temperature           dtemperature = -sum_ij dS_ij s_ij / temperature
//
// One block owns a row tile, sweeps all columns, or a chunk of them where that fills the device better, and keeps drow in
// registers; sum_kernel adds up the chunks. Two ways to the other side's gradient:
//   two passes  dS is symmetric in its two sides, so it is the same kernel with the sides exchanged: no atomics, a fixed
//               order of summation, no workspace of N x D; S and dS are formed twice. The deterministic way.
//   one pass    dS of the block goes through shared memory, dcolumn of the tile is summed over the block's rows and added
//               to float32 sums in global memory, in no fixed order; finish_kernel rounds them. 16-bit types, depth <= 128.
// dS is formed in float32 and only then rounded for the second product. For float16 it is first
// multiplied by a power of two that brings the largest coefficient near 2^12, else it would underflow.
#pragma once

#include "feed.cuh"

namespace laparoflow::cuda {

/// The columns' sums of the one pass: a tile of 64 columns for every slot (Side's frame b begins at slot offsets[b] / 64 +
/// b), in it a group of 16 columns after the other, in that 8 of the depth after the other, as fragments of 128 numbers.
struct ColumnSums {
  float* data;
  int depth;  // padded to 64

  LAPAROFLOW_HOST_DEVICE static std::int64_t count(std::int64_t slots, int depth) { return slots * 64 * depth; }
  /// The sums of 16 columns from `column` of a slot's tile.
  LAPAROFLOW_HOST_DEVICE float* fragments(std::int64_t slot, int column) const {
    return data + (slot * 64 + column) * depth;
  }
  /// Where this lane adds to the fragment of depth d .. d + 7.
  LAPAROFLOW_DEVICE static int place(int lane, int d) { return d * 16 + place_of_sum(lane, 0); }
  /// Number d (even) of a column of a slot; d + 1 is `step()` further.
  LAPAROFLOW_DEVICE const float* at(std::int64_t slot, int column, int d) const {
    const int lane = column % 8 * 4 + d % 8 / 2, e = column % 16 / 8 * 2;
    return fragments(slot, column / 16 * 16) + d / 8 * 128 + place_of_sum(lane, e);
  }
  LAPAROFLOW_DEVICE static int step() { return place_of_sum(0, 1) - place_of_sum(0, 0); }
};

struct BackwardPlan {
  int warps = 4, stages = 2, feed_bytes = 0, shared_bytes = 0;
  int scores_at = 0;             // of the one pass, in shared memory
  int sums_depth = 0;            // of the one pass: depth of the column sums; 0 for two passes
  std::size_t record_bytes = 0;  // workspace of the feed's records
  std::int64_t tiles_per_frame = 0;
  std::int64_t column_chunk = 1, column_chunks = 1;  // tiles of columns in a block, blocks of a row tile
  std::int64_t blocks = 0;
  std::int64_t capacity = 0;  // pairs that its waves of blocks have room for

  LAPAROFLOW_DEVICE std::int64_t row_tile() const { return block_index() / column_chunks; }
  LAPAROFLOW_DEVICE std::int64_t column_slot() const { return block_index() % column_chunks; }
  LAPAROFLOW_DEVICE int frame() const { return static_cast<int>(row_tile() / tiles_per_frame); }
};

struct BackwardArguments {
  Problem problem;
  BackwardPlan plan;
  const float* row_coefficients = nullptr;     // [kCoefficients, row.total] or null
  const float* column_coefficients = nullptr;  // [kCoefficients, column.total] or null
  const float* loss_scale = nullptr;           // [1]: the power of two in the coefficients
  void* gradient = nullptr;                    // [row.total, depth] or null
  float* row_partials = nullptr;               // [column_chunks, row.total, depth] where there is more than one
  float* temperature_partials = nullptr;       // [blocks]: sum dS x, times the loss scale; or null
  float* column_sums = nullptr;                // of the one pass, zero before (ColumnSums); or null
  Records row_records, column_records;
};

LAPAROFLOW_DEVICE FeedArguments feed_arguments(const BackwardArguments& a, int row_count) {
  return {&a.problem,    a.plan.warps,  a.plan.stages,   row_count, a.column_coefficients,
          kCoefficients, a.row_records, a.column_records};
}

/// From this block's first row to the end of its frame. A block that has none takes no part in the temperature's gradient.
LAPAROFLOW_DEVICE Range rows_of_block(const BackwardArguments& a, int frame, int row_count) {
  Range rows = frame_range(a.problem.row, frame);
  rows.begin += a.plan.row_tile() % a.plan.tiles_per_frame * row_count;
  if (rows.begin >= rows.end && a.temperature_partials != nullptr && thread_index() == 0)
    a.temperature_partials[block_index()] = 0.0f;
  return rows;
}

/// Which sides have coefficients: the default form is compiled for each, the others ask at run time.
enum class Terms : int { kAny = 0, kRow = 1, kColumn = 2, kBoth = 3 };

/// Turns the logits of a tile into dS in place. Row coefficients are in registers.
template <class Engine, int kRowTiles, class Options, Terms kTerms, bool kOnePass>
struct TileGradient {
  static constexpr int kRows = 2 * kRowTiles;
  static constexpr int kColumns = Engine::kColumns;
  float row[kCoefficients][kRows];
  float temperature[kRows];  // sum_j dS_ij x_ij
  bool any_row_terms, any_column_terms;
  /// As folds_coefficients has it.
  static constexpr bool kFolded = Engine::kWarpgroups && Options::kFixed && (kOnePass || Options::kPlain) &&
                                  (kTerms == Terms::kRow || kTerms == Terms::kColumn);

  LAPAROFLOW_DEVICE bool row_terms() const { return kTerms == Terms::kAny ? any_row_terms : kTerms != Terms::kColumn; }
  LAPAROFLOW_DEVICE bool column_terms() const { return kTerms == Terms::kAny ? any_column_terms : kTerms != Terms::kRow; }

  LAPAROFLOW_DEVICE void read_rows(const BackwardArguments& arguments, std::int64_t end, std::int64_t first) {
    any_row_terms = arguments.row_coefficients != nullptr;
    any_column_terms = arguments.column_coefficients != nullptr;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      temperature[r] = 0.0f;
      const std::int64_t i = first + r * 8;
#pragma unroll
      for (int q = 0; q < kCoefficients; ++q)
        row[q][r] = row_terms() && i < end ? arguments.row_coefficients[q * arguments.problem.row.total + i] : 0.0f;
    }
  }

  /// The same of rows that lie in shared memory, as a column tile does; the thread's first is `row` there.
  LAPAROFLOW_DEVICE void reread_rows(const ColumnStage<Engine>& rows, int row_) {
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int q = 0; q < kCoefficients; ++q) row[q][r] = rows.coefficient[q * kColumns + place(row_ + r * 8)];
  }

  /// Row and column coefficient together.
  LAPAROFLOW_DEVICE float both(Coefficient q, int r, const FloatQuad (&column)[kCoefficients], int at) const {
    if constexpr (kTerms == Terms::kRow) return row[q][r];
    if constexpr (kTerms == Terms::kColumn) return column[q].at[at];
    return row[q][r] + column[q].at[at];
  }

  /// Adds q_i 2^(t - l_i) + q_j 2^(t - l_j) of the sides that have terms; l is the coefficient behind q.
  LAPAROFLOW_DEVICE void add_terms(float& d, Exponent t, int q, int r, const FloatQuad (&column)[kCoefficients], int at,
                                   float scale) const {
    if (row_terms()) d = DeviceMath::fma(row[q][r], DeviceMath::exp2(t.above(row[q + 1][r], scale)), d);
    if (column_terms()) d = DeviceMath::fma(column[q].at[at], DeviceMath::exp2(t.above(column[q + 1].at[at], scale)), d);
  }

  template <bool kTemperature, class Weights>
  LAPAROFLOW_DEVICE void apply(float (&c)[kRowTiles][Engine::kColumnTiles][4], Weights weights, const Options& options,
                               const ColumnStage<Engine>& stage, float scale) {
    constexpr bool kWeights = Weights::kAny;
    const Lane at;
    FloatQuad mark, column[kCoefficients];
#pragma unroll
    for (int n = 0; n < Engine::kColumnTiles; ++n) {
      if (n % 2 == 0) {
        const int first = n * 8 + 4 * at.quad;
        if constexpr (!Options::kFixed) mark = load_quad(stage.mark + first);
#pragma unroll
        for (int q = 0; q < kCoefficients; ++q) {
          column[q] = FloatQuad{{0.0f, 0.0f, 0.0f, 0.0f}};
          if (column_terms()) column[q] = load_quad(stage.coefficient + q * kColumns + first);
        }
      }
      Weight w[kRows][2];
      weights.get(w, n);
      float ds[kRows][2];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          const int h = n % 2 * 2 + p;
          const float x = c[r / 2][n][(r & 1) * 2 + p];
          float& d = ds[r][p];
          if constexpr (Options::kFixed) {  // a column that does not count has zeros for an embedding: d adds nothing
            const float a = both(kDenominator, r, column, h), unit = kFolded ? both(kScale, r, column, h) : scale;
            const float e = kFolded                 ? DeviceMath::exp2(DeviceMath::fma(x, unit, a))
                            : Options::kFixedInside ? DeviceMath::exp2(x * unit)
                                                    : fixed_exponential<Engine>(x, unit, r, p, kWeights);
            if constexpr (kWeights && Options::kPlain) {
              const float b = both(kPositive, r, column, h);
              d = kFolded ? DeviceMath::fma(w[r][p].value, b, e) : pair_gradient(e, w[r][p].value, a, b);
            } else {
              d = kFolded ? e : e * a;
            }
            if constexpr (kWeights && Options::kFixedInside) {
              const float log2 = w[r][p].log2 * weights.log2_unit();
              add_terms(d, {x, 0.0f, log2 < -126.0f ? kExcluded : log2}, kPositive, r, column, h, unit);
            }
          } else if (options.bounded) {
            float e = DeviceMath::exp2(DeviceMath::fma(x, scale, bias_of<Options>(mark.at[h], w[r][p])));
            if (options.dissimilar) e *= 1.0f - w[r][p].value;
            d = e * both(kDenominator, r, column, h);
          } else {
            const Exponent t{x, bias_of<Options>(mark.at[h], w[r][p]), denominator_factor(options.dissimilar, w[r][p])};
            d = 0.0f;
            add_terms(d, t, kDenominator, r, column, h, scale);
          }
          if constexpr (kWeights && !Options::kFixed) {
            if (options.inside) {
              const Exponent t{x, bias_of<Options>(mark.at[h], w[r][p]), inside_factor(w[r][p])};
              add_terms(d, t, kPositive, r, column, h, scale);
            } else {
              d = DeviceMath::fma(w[r][p].value, both(kPositive, r, column, h), d);
            }
          }
        }
      if constexpr (kTemperature)
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int p = 0; p < 2; ++p)
            temperature[r] = DeviceMath::fma(ds[r][p], c[r / 2][n][(r & 1) * 2 + p], temperature[r]);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int p = 0; p < 2; ++p) c[r / 2][n][(r & 1) * 2 + p] = ds[r][p];
    }
  }
};

/// Writes two neighbours of a row, rounded to the row's type; the second only where there is one.
template <class T>
LAPAROFLOW_DEVICE void store_pair(T* to, float x, float y, bool second) {
  const std::uint32_t both = pack_pair(x, y, T{});
  to[0].bits = static_cast<std::uint16_t>(both);
  if (second) to[1].bits = static_cast<std::uint16_t>(both >> 16);
}
LAPAROFLOW_DEVICE void store_pair(float* to, float x, float y, bool second) {
  to[0] = x;
  if (second) to[1] = y;
}

/// The end of a row tile: drow from its sums, and the block's sum for the temperature; `row_of` is where in the tile the
/// thread's row r is, and `temperature` its sum for that row. `kSigned`: the sums have the sign of the row's scale.
template <int kRowTiles, bool kSigned, int kDepthTiles, class Temperature, class Feed, class RowOf>
LAPAROFLOW_DEVICE void write_gradient(const BackwardArguments& arguments, int row_count,
                                      const float (&g)[kRowTiles][kDepthTiles][4], Temperature temperature, const Feed& feed,
                                      RowOf row_of) {
  using Type = typename Feed::Type;
  constexpr int kRows = 2 * kRowTiles;
  const Problem& problem = arguments.problem;
  const BackwardPlan& plan = arguments.plan;
  const Lane at;
  // Read again: held across the loop over tiles these would cost registers.
  read_memory_again();
  const Range own_rows = frame_range(problem.row, plan.frame());
  const std::int64_t first_of_block = own_rows.begin + plan.row_tile() % plan.tiles_per_frame * row_count;
  if (arguments.gradient != nullptr) {
    const float factor = 1.0f / (problem.temperature[0] * arguments.loss_scale[0]);
    const bool chunked = arguments.row_partials != nullptr;
    void* const to = chunked ? arguments.row_partials + plan.column_slot() * problem.row.total * problem.depth
                             : arguments.gradient;  // one pointer for both types: two would cost registers
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const std::int64_t i = first_of_block + row_of(r);
      if (i >= own_rows.end) continue;
      float keep = counts(problem.row, own_rows, i) ? factor : 0.0f;
      if constexpr (kSigned)
        if (arguments.row_coefficients[kScale * problem.row.total + i] < 0.0f) keep = -keep;
#pragma unroll
      for (int d = 0; d < kDepthTiles; ++d) {
        const int column = d * 8 + 2 * at.quad;
        if (column >= problem.depth) continue;
        const float x = g[r / 2][d][(r & 1) * 2] * keep, y = g[r / 2][d][(r & 1) * 2 + 1] * keep;
        if (chunked)
          store_pair(static_cast<float*>(to) + i * problem.depth + column, x, y, column + 1 < problem.depth);
        else
          store_pair(static_cast<Type*>(to) + i * problem.depth + column, x, y, column + 1 < problem.depth);
      }
    }
  }
  if (arguments.temperature_partials != nullptr) {
    float sum = 0.0f;
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum += counts(problem.row, own_rows, first_of_block + row_of(r)) ? temperature(r) : 0.0f;
    for (int mask = 1; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
    float* warp_sums = reinterpret_cast<float*>(shared_memory() + plan.feed_bytes);
    if (at.lane == 0) warp_sums[thread_index() / 32] = sum;
    feed.barrier();
    if (thread_index() == 0) {
      float total = 0.0f;
      for (int v = 0; v < plan.warps; ++v) total += warp_sums[v];
      arguments.temperature_partials[block_index()] = total;
    }
  }
}

/// Combines one value per thread over a block of 256; the result is in every thread.
template <class Combine>
LAPAROFLOW_DEVICE float combine_over_block(float value, Combine combine) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  block_barrier();
  shared[thread_index()] = value;
  block_barrier();
  for (int half = thread_count() / 2; half > 0; half /= 2) {
    if (thread_index() < half) shared[thread_index()] = combine(shared[thread_index()], shared[thread_index() + half]);
    block_barrier();
  }
  return shared[0];
}
LAPAROFLOW_DEVICE float sum_over_block(float x) {
  return combine_over_block(x, [](float a, float b) { return a + b; });
}

/// What is left once a pass over the pairs is done; each of the three where there is any.
struct FinishArguments {
  // Gradients of the rows, to be added up over the chunks of columns.
  struct {
    const float* partials = nullptr;  // [slots, count]
    std::int64_t slots = 0, count = 0;
    void* to = nullptr;  // [count]
    std::int64_t blocks = 0;
  } sum;
  // The columns' gradient from its sums.
  Side side;
  int frames = 0, depth = 0;
  bool batch = false;  // the denominator is the batch's
  ColumnSums sums{nullptr, 0};
  void* gradient = nullptr;  // [total, depth]
  std::int64_t column_blocks = 0;
  // dtemperature = -sum dS x / temperature^2 from the partial sums of the blocks.
  const float* temperature_partials = nullptr;  // [temperature_count]
  std::int64_t temperature_count = 0;
  float* temperature_gradient = nullptr;
  const float* temperature = nullptr;
  const float* loss_scale = nullptr;
};

/// Blocks: 256 numbers of the columns' gradient each, then 256 of the rows', in order, then one for the temperature.
template <class Engine>
LAPAROFLOW_KERNEL(256, 1)
finish_kernel(FinishArguments a) {
  using Type = typename Engine::Type;
  if (block_index() >= a.column_blocks + a.sum.blocks) {
    float sum = 0.0f;
    for (std::int64_t i = thread_index(); i < a.temperature_count; i += thread_count()) sum += a.temperature_partials[i];
    sum = sum_over_block(sum);
    if (thread_index() == 0) a.temperature_gradient[0] = -sum / a.loss_scale[0] / (a.temperature[0] * a.temperature[0]);
    return;
  }
  if (block_index() >= a.column_blocks) {
    const std::int64_t i = (block_index() - a.column_blocks) * thread_count() + thread_index();
    if (i >= a.sum.count) return;
    float sum = 0.0f;
    for (std::int64_t slot = 0; slot < a.sum.slots; ++slot) sum += a.sum.partials[slot * a.sum.count + i];
    store_pair(static_cast<Type*>(a.sum.to) + i, sum, 0.0f, false);
    return;
  }
  const std::int64_t at = block_index() * thread_count() + thread_index();
  const int pairs = (a.depth + 1) / 2;
  const std::int64_t row = at / pairs;  // of all slots
  const int d = static_cast<int>(at % pairs) * 2;
  const std::int64_t slot = row / kSlotRows;
  const bool one_run = a.batch && Feed<Engine>::kTilesCrossFrames;
  const int frame = one_run ? 0 : frame_of_slot(a.side, a.frames, slot);
  const Range range = one_run ? Range{0, a.side.total} : frame_range(a.side, frame);
  const std::int64_t i = range.begin + row - (one_run ? 0 : frame_slots(a.side, frame).begin) * kSlotRows;
  if (!range.holds(i)) return;
  const bool valid = a.side.mask == nullptr || a.side.mask[i] != 0;
  const float factor = valid ? 1.0f / (a.temperature[0] * a.loss_scale[0]) : 0.0f;
  const float* from = a.sums.at(slot, static_cast<int>(row % kSlotRows), d);
  store_pair(static_cast<Type*>(a.gradient) + i * a.depth + d, valid ? from[0] * factor : 0.0f,
             valid ? from[ColumnSums::step()] * factor : 0.0f, d + 1 < a.depth);
}

}  // namespace laparoflow::cuda
