// What forward and backward share: the tiles in shared memory, the options of the loss, the weights of a thread's pairs.
//
// A column tile holds embeddings and per column the flow (or the mark of a column without weight), a mark (1, or 0 for a
// column outside the denominator) and, in the backward, four coefficients.
// Masked and out-of-range rows are never read: zeros stand in for them, so NaN under a mask stays out.
// How tiles get there is the feed's part: feed.cuh of sm80 and of sm90a.
#pragma once

#include "arguments.h"
#include "pair_device.cuh"

namespace laparoflow::cuda {

/// The place of this thread in its warp's fragments.
struct Lane {
  int lane, group, quad;  // group = lane / 4 is the row, quad = lane % 4 the column pair
  LAPAROFLOW_DEVICE Lane() : Lane(thread_index()) {}
  LAPAROFLOW_DEVICE explicit Lane(int thread) : lane(thread & 31), group(lane >> 2), quad(lane & 3) {}
};

constexpr int kMaxFlow = 8;
constexpr int kFixedFlow = 2;  // flow components held in registers by the default options

// In the default form with positives inside, w e^s is the product of the two. What it loses under 2^-126 counts only in rows
// whose sum is tiny; those are summed anew, from exponents.
constexpr float kTinyInside = 8.271806125530277e-25f;  // 2^-80

/// What one thread needs of 16 columns: those of its fragment in the even tile of 8 (at[0], at[1]) and the odd one.
struct alignas(16) FloatQuad {
  float at[4];
};
LAPAROFLOW_DEVICE FloatQuad load_quad(const float* from) { return *reinterpret_cast<const FloatQuad*>(from); }

// Coefficients of a row in the backward: what dS needs of its statistics and upstream gradients, zero where the
// row has none. [kCoefficients, total]
constexpr int kCoefficients = 4;
enum Coefficient : int {
  kDenominator = 0,  // a, or a e^-lse when bounded; log2 |a e^-lse| where folded
  kLogSum = 1,       // lse in base 2 (unbounded)
  kScale = 1,        // log2(e) / temperature with the sign of a (folded)
  kPositive = 2,     // b / W (outside) or b (inside)
  kPositiveLog = 3,  // positive in base 2 (inside)
};

struct Range {
  std::int64_t begin, end;
  LAPAROFLOW_DEVICE bool holds(std::int64_t i) const { return i >= begin && i < end; }
};

LAPAROFLOW_DEVICE Range frame_range(const Side& side, int frame) { return {side.offsets[frame], side.offsets[frame + 1]}; }
/// Tiles of 64 columns, of records and of column sums, in slots that never hold columns of two frames: the slots of a frame.
constexpr int kSlotRows = 64;
LAPAROFLOW_HOST_DEVICE std::int64_t slot_count(const Side& side, int frames) { return side.total / kSlotRows + frames; }
LAPAROFLOW_DEVICE Range frame_slots(const Side& side, int frame) {
  const Range rows = frame_range(side, frame);
  const std::int64_t first = rows.begin / kSlotRows + frame;
  return {first, first + (rows.end - rows.begin + kSlotRows - 1) / kSlotRows};
}
/// The frame whose first slot is the last that is not behind `slot`.
LAPAROFLOW_DEVICE int frame_of_slot(const Side& side, int frames, std::int64_t slot) {
  int low = 0, high = frames;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (side.offsets[middle] / kSlotRows + middle <= slot)
      low = middle;
    else
      high = middle;
  }
  return low;
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
  /// What the products go over; sm_80 needs the padded depth as it gives the stride of a row.
  LAPAROFLOW_HOST_DEVICE int product_depth() const { return Engine::kDepthStep == 16 ? padded : depth; }
};

/// Where column (or row) c of a tile lies in its arrays of floats: the four numbers that a thread needs of 16
/// columns, (2t, 2t + 1) and (2t + 8, 2t + 9), stand side by side.
LAPAROFLOW_HOST_DEVICE int place(int c) { return (c & ~15) | (c >> 1 & 3) << 2 | (c >> 3 & 1) << 1 | (c & 1); }

LAPAROFLOW_HOST_DEVICE int padded_flow(int width) { return width < kFixedFlow ? kFixedFlow : width; }

/// Flows [F][count] of `count` rows, by `place`; F is padded to kFixedFlow. `far` (kFarFlow or -kFarFlow) marks a row
/// that does not count.
LAPAROFLOW_DEVICE void load_flows(float* to, const Side& side, Range range, std::int64_t first, int count, int width,
                                  float far) {
#pragma unroll 1
  for (int r = thread_index(); r < count; r += thread_count()) {
    const std::int64_t i = first + r;
    const bool valid = counts(side, range, i);
#pragma unroll 1
    for (int f = 0; f < padded_flow(width); ++f)
      to[f * count + place(r)] = f < width && valid ? limited_flow(side.flow[i * width + f]) : f == 0 && !valid ? far : 0.0f;
  }
}

/// The groups of the same rows, two words of 32 bits each, by the threads that wrote the flows before them.
LAPAROFLOW_DEVICE void load_groups(float* to, const Side& side, Range range, std::int64_t first, int count) {
#pragma unroll 1
  for (int r = thread_index(); r < count; r += thread_count()) {
    const std::int64_t group = counts(side, range, first + r) ? side.group[first + r] : 0;
    for (int word = 0; word < kGroupWords; ++word)
      to[word * count + place(r)] = DeviceMath::from_bits(static_cast<std::uint32_t>(group >> 32 * word));
  }
}

/// Shared memory of one column tile; on sm_90a also of a row tile, and a tile's record in the workspace.
template <class Engine>
struct ColumnStage {
  static constexpr int kColumns = Engine::kColumns;
  typename Engine::Type* embedding;  // [kColumns, depth] by tile_offset
  char* factors;                     // image of the factors of their weights (sm90a/factors.cuh), where the engine has them
  float* flow;                       // [max(F, 2), kColumns] by place
  float* mark;                       // [kColumns] by place: 1, or 0 for a column that does not count
  float* coefficient;                // [kCoefficients, kColumns] by place

  LAPAROFLOW_HOST_DEVICE static int bytes(int depth, int flow_width, int coefficients) {
    return Engine::tile_bytes(kColumns, depth) + Engine::kFactorBytes +
           kColumns * (padded_flow(flow_width) + 1 + coefficients) * 4;
  }

  LAPAROFLOW_HOST_DEVICE ColumnStage(char* memory, int depth, int flow_width) {
    embedding = reinterpret_cast<typename Engine::Type*>(memory);
    factors = memory + Engine::tile_bytes(kColumns, depth);
    flow = reinterpret_cast<float*>(factors + Engine::kFactorBytes);
    mark = flow + padded_flow(flow_width) * kColumns;
    coefficient = mark + kColumns;
  }

  /// The rest of a tile beside its embeddings: rows of `range`, weights for those of `frame` alone. `coefficients` is
  /// [kCoefficients, total] or null.
  LAPAROFLOW_DEVICE void load_numbers(const Side& side, Range range, Range frame, std::int64_t first, int flow_width,
                                      float far, const float* coefficients, int coefficient_count) const {
    load_flows(flow, side, frame, first, kColumns, flow_width, far);
#pragma unroll 1
    for (int c = thread_index(); c < kColumns; c += thread_count()) {
      const std::int64_t j = first + c;
      const bool valid = counts(side, range, j);
      mark[place(c)] = valid ? 1.0f : 0.0f;
#pragma unroll 1
      for (int q = 0; q < coefficient_count; ++q)
        coefficient[q * kColumns + place(c)] = valid ? coefficients[q * side.total + j] : 0.0f;
    }
  }
};

/// The row tile of this thread's warp (sm_80: of the block; sm_90a: of the warpgroup) in shared memory.
template <class Engine>
struct RowTile {
  typename Engine::Type* embedding;  // [count, depth] by tile_offset
  const char* factors = nullptr;     // as of a column tile
  float* flow;                       // [max(F, 2), count] by place
  float* mark;                       // [count] by place: 1, or 0 for a row that does not count
  int count;

  LAPAROFLOW_HOST_DEVICE static int bytes(int rows, int depth, int flow_width) {
    return Engine::tile_bytes(rows, depth) + rows * (padded_flow(flow_width) + 1) * 4;
  }
  LAPAROFLOW_DEVICE RowTile(char* memory, int rows, int depth, int flow_width) : count(rows) {
    embedding = reinterpret_cast<typename Engine::Type*>(memory);
    flow = reinterpret_cast<float*>(memory + Engine::tile_bytes(rows, depth));
    mark = flow + padded_flow(flow_width) * rows;
  }
};

/// The options of the loss as compile-time constants for the default form, positives outside or inside; `kStats`: with the
/// statistics of the weights that no loss needs (a forward) ...
template <bool kInside, bool kStats>
struct DefaultForm {
  static constexpr bool kFixed = true, kFixedInside = kInside, kPlain = !kInside, kWeightStats = kStats, kGroups = false;
  static constexpr FlowKernel flow_kernel = FlowKernel::kGaussian;
  static constexpr bool inside = kInside;
  static constexpr bool dissimilar = false;
  static constexpr bool bounded = true;
  LAPAROFLOW_DEVICE explicit DefaultForm(const Problem&) {}
  LAPAROFLOW_HOST_DEVICE static bool serves(const Problem& p) {
    return p.flow_kernel == FlowKernel::kGaussian && p.positives == (kInside ? Positives::kInside : Positives::kOutside) &&
           p.negatives == Negatives::kAll && p.bounded && p.flow_width <= kFixedFlow;
  }
};
using FixedOptions = DefaultForm<false, false>;
using InsideOptions = DefaultForm<true, false>;

/// Whether dS of a pair is formed with a in the exponent, sign(a) (2^(x' scale + log2 |a e^-lse|) + sign(a) b / W w): the
/// sign of a is in its row's embeddings, so in x', in `scale` and in b. What dS is multiplied with, which then lacks that
/// sign, is the row with it. dS of both sides has no common sign, and inside a second pass has no registers for signs of
/// columns.
inline bool folds_coefficients(const Problem& p, bool one_pass) {
  return p.path == Path::kWarpgroup && !p.symmetric && (FixedOptions::serves(p) || (one_pass && InsideOptions::serves(p)));
}

/// ... and read at run time for all others; the kernels are written once over both. `kGrouped`: pixels have groups.
template <bool kGrouped>
struct RunTimeOptions {
  static constexpr bool kFixed = false, kFixedInside = false, kPlain = false, kWeightStats = true, kGroups = kGrouped;
  FlowKernel flow_kernel;
  bool inside, dissimilar, bounded;
  LAPAROFLOW_DEVICE explicit RunTimeOptions(const Problem& p)
      : flow_kernel(p.flow_kernel),
        inside(p.positives == Positives::kInside),
        dissimilar(p.negatives == Negatives::kDissimilar),
        bounded(p.bounded) {}
};
using GeneralOptions = RunTimeOptions<false>;
using GroupedOptions = RunTimeOptions<true>;

/// What is added to the logits, in base 2, of a row or column with this mark: 0, or kExcluded.
LAPAROFLOW_DEVICE float bias_of(float mark) { return DeviceMath::fma(mark, -kExcluded, kExcluded); }
/// The same of a pair, by the mark of its column: a pair of equal groups has kExcluded for the logarithm of its weight.
template <class Options>
LAPAROFLOW_DEVICE float bias_of(float mark, Weight w) {
  return Options::kGroups && w.log2 == kExcluded ? kExcluded : bias_of(mark);
}

/// e^s of pair p of row r in column tile n for the fixed options. A pair that does not count has zeros for an embedding, so
/// s = 0 and the result is 1; what the sum makes of it is the mark's part. `polynomial` allows the multiply-add units.
template <class Engine>
LAPAROFLOW_DEVICE float fixed_exponential(float x, float scale, int r, int p, bool polynomial) {
  constexpr int kShare = Engine::kPolynomialShare;
  return bounded_exponential(x, scale, kShare == 4 || (polynomial && (2 * r + p) % 4 < kShare));
}

/// The row side of the pairs of one thread: 2 rows in each of its kRowTiles row tiles.
template <class Options, int kRowTiles>
struct RowFlows {
  static constexpr int kRows = 2 * kRowTiles;
  float fixed[kRows][kFixedFlow];
  const float* shared = nullptr;  // [F, row_count] by place
  int row_count = 0, first_row = 0, width = 0;
  float gain = 0.0f;

  /// The thread's rows in the row tile.
  LAPAROFLOW_DEVICE int row(int r) const { return first_row + r * 8; }

  /// Takes up a new row tile, visible in shared memory; the warp's rows begin at `warp_row` of it.
  template <class Rows>
  LAPAROFLOW_DEVICE void refresh(const Options& options, const Rows& rows, int warp_row, int width_, float inv_bandwidth) {
    shared = rows.flow;
    row_count = rows.count;
    first_row = warp_row + Lane().group;
    width = width_ - (Options::kGroups ? kGroupWords : 0);
    gain = weight_gain(options.flow_kernel, inv_bandwidth);
    if constexpr (Options::kFixed) {
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int f = 0; f < kFixedFlow; ++f) fixed[r][f] = shared[f * row_count + place(row(r))];
    }
  }

  /// What Weight::log2 of `weights` is to be multiplied with: the fixed options leave r2 there.
  LAPAROFLOW_DEVICE float log2_unit() const { return Options::kFixed ? gain : 1.0f; }

  /// Squared flow differences to the two columns of column tile n; `flow` holds the thread's first kFixedFlow
  /// components of tiles n and n ^ 1.
  template <class Stage>
  LAPAROFLOW_DEVICE void squared_differences(float (&r2)[kRows][2], const Stage& stage, int n,
                                             const FloatQuad (&flow)[kFixedFlow]) const {
    if constexpr (Options::kFixed) {
#pragma unroll
      for (int p = 0; p < 2; ++p)
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float dx = fixed[r][0] - flow[0].at[n % 2 * 2 + p], dy = fixed[r][1] - flow[1].at[n % 2 * 2 + p];
          r2[r][p] = DeviceMath::fma(dy, dy, dx * dx);
        }
    } else {
#pragma unroll
      for (int r = 0; r < kRows; ++r) r2[r][0] = r2[r][1] = 0.0f;
      const float* column = stage.flow + n / 2 * 16 + Lane().quad * 4 + n % 2 * 2;
#pragma unroll 1
      for (int f = 0; f < width; ++f) {
        const float g[2] = {column[f * Stage::kColumns], column[f * Stage::kColumns + 1]};
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float x = shared[f * row_count + place(row(r))];
          r2[r][0] = DeviceMath::fma(x - g[0], x - g[0], r2[r][0]);
          r2[r][1] = DeviceMath::fma(x - g[1], x - g[1], r2[r][1]);
        }
      }
    }
  }

  /// Whether row r and the p-th column of column tile n are of one group.
  template <class Stage>
  LAPAROFLOW_DEVICE bool same_group(const Stage& stage, int n, int r, int p) const {
    const float* column = stage.flow + width * Stage::kColumns + n / 2 * 16 + Lane().quad * 4 + n % 2 * 2 + p;
    const float* own = shared + width * row_count + place(row(r));
    bool same = true;
    for (int word = 0; word < kGroupWords; ++word)
      same = same && DeviceMath::to_bits(column[word * Stage::kColumns]) == DeviceMath::to_bits(own[word * row_count]);
    return same;
  }

  /// Weights of the thread's pairs in column tile n.
  template <class Stage>
  LAPAROFLOW_DEVICE void weights(Weight (&w)[kRows][2], const Options& options, const Stage& stage, int n,
                                 const FloatQuad (&flow)[kFixedFlow]) const {
    float r2[kRows][2];
    squared_differences(r2, stage, n, flow);
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int p = 0; p < 2; ++p)
        if constexpr (Options::kFixed)
          w[r][p] = Weight{r2[r][p], DeviceMath::exp2(r2[r][p] * gain)};
        else if (Options::kGroups && same_group(stage, n, r, p))
          w[r][p] = Weight{kExcluded, 0.0f};
        else
          w[r][p] = marked_weight(options.flow_kernel, r2[r][p], gain);
  }
};

// The weights of a thread's pairs in a tile, for one column tile n after the other: of a tile of another frame, where all
// are 0 ...
struct NoWeights {
  static constexpr bool kAny = false;
  LAPAROFLOW_DEVICE float log2_unit() const { return 0.0f; }
  template <int kRows>
  LAPAROFLOW_DEVICE void get(Weight (&w)[kRows][2], int) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) w[r][0] = w[r][1] = Weight{0.0f, 0.0f};
  }
};

/// ... from the flows, their difference first ...
template <class Options, int kRowTiles, class Stage>
struct FlowWeights {
  static constexpr bool kAny = true;
  const RowFlows<Options, kRowTiles>& flows;
  const Options& options;
  const Stage& stage;
  FloatQuad flow[kFixedFlow];

  LAPAROFLOW_DEVICE FlowWeights(const RowFlows<Options, kRowTiles>& flows_, const Options& options_, const Stage& stage_)
      : flows(flows_), options(options_), stage(stage_) {}
  LAPAROFLOW_DEVICE float log2_unit() const { return flows.log2_unit(); }
  LAPAROFLOW_DEVICE void get(Weight (&w)[2 * kRowTiles][2], int n) {
    if (n % 2 == 0)
#pragma unroll
      for (int f = 0; f < kFixedFlow; ++f) flow[f] = load_quad(stage.flow + f * Stage::kColumns + n * 8 + 4 * Lane().quad);
    flows.weights(w, options, stage, n, flow);
  }
};

/// ... or from their logarithms, which a product of factors has given (sm90a/factors.cuh).
template <int kColumnTiles>
struct ProductWeights {
  static constexpr bool kAny = true;
  const float (&log2)[kColumnTiles][4];

  LAPAROFLOW_DEVICE float log2_unit() const { return 1.0f; }
  LAPAROFLOW_DEVICE void get(Weight (&w)[2][2], int n) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int p = 0; p < 2; ++p) w[r][p] = Weight{log2[n][2 * r + p], DeviceMath::exp2(log2[n][2 * r + p])};
  }
};

}  // namespace laparoflow::cuda
