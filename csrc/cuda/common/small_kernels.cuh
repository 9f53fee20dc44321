// The small kernels around the two large ones: merging the forward's partial statistics, preparing the coefficients of the
// backward. One pass over [total] of both sides each, the blocks of the rows first.
// Included by entry.cu alone, since a kernel that is no template may be defined only once.
#pragma once

#include "backward.cuh"
#include "partial.cuh"

namespace laparoflow::cuda {

struct MergeArguments {
  Problem problem;
  struct {
    const float* partials = nullptr;  // [slots, components, total]
    std::int64_t slots = 0;
    float* stats = nullptr;  // [4, total]
  } rows, columns;
  std::int64_t row_blocks = 0;
};

// Of a row with a smaller sum of weights the forward's products w x underflow; merge_kernel sums it anew, times kLift.
constexpr float kTinyWeights = 7.888609052210118e-31f;  // 2^-100
constexpr float kLift = 1.8446744073709552e19f;         // 2^64

/// Number `at` of an array of elements.
LAPAROFLOW_DEVICE float element_at(const void* array, Element element, std::int64_t at) {
  if (element == Element::kFloat) return static_cast<const float*>(array)[at];
  const std::uint32_t bits = static_cast<const std::uint16_t*>(array)[at];
  return element == Element::kHalf ? half_to_float(bits) : DeviceMath::from_bits(bits << 16);
}

/// W of pixel i of one side and sum w x / W, over all of the other by all threads of the block.
LAPAROFLOW_DEVICE void sum_far_row(const Problem& p, const Side& own, const Side& other, std::int64_t i, float& weight_sum,
                                   float& mean) {
  int frame = 0;
  for (int high = p.frames; high - frame > 1;) {
    const int middle = (frame + high) / 2;
    (own.offsets[middle] <= i ? frame : high) = middle;
  }
  const Range columns = frame_range(other, frame);
  const float gain = weight_gain(p.flow_kernel, p.inv_bandwidth[frame]);
  const bool grouped = own.group != nullptr;
  const int width = p.flow_width - (grouped ? kGroupWords : 0);
  float W = 0.0f, sum = 0.0f;
  for (std::int64_t j = columns.begin + thread_index(); j < columns.end; j += thread_count()) {
    if (!counts(other, columns, j) || (grouped && own.group[i] == other.group[j])) continue;
    float r2 = 0.0f, x = 0.0f;
    for (int f = 0; f < width; ++f) {
      const float d = limited_flow(own.flow[i * width + f]) - limited_flow(other.flow[j * width + f]);
      r2 = DeviceMath::fma(d, d, r2);
    }
    const float w = marked_weight(p.flow_kernel, r2, gain).value * kLift;
    if (w == 0.0f) continue;
    for (int d = 0; d < p.depth; ++d)
      x = DeviceMath::fma(element_at(own.embedding, p.element, i * p.depth + d),
                          element_at(other.embedding, p.element, j * p.depth + d), x);
    W += w;
    sum = DeviceMath::fma(w, x, sum);
  }
  W = sum_over_block(W);
  sum = sum_over_block(sum);
  weight_sum = W / kLift;
  mean = W == 0.0f ? 0.0f : sum / W;
}

/// ln(x 2^m), rounded once at its own size.
LAPAROFLOW_DEVICE float natural_log(float x, float m) {
  constexpr float kLn2Low = -1.904654299957768e-9f;  // ln 2 - kLn2
  return DeviceMath::fma(m, kLn2, DeviceMath::fma(m, kLn2Low, accurate_log2(x) * kLn2));
}

/// Merges the slots of each pixel in order and writes its statistics; one thread a pixel.
LAPAROFLOW_KERNEL(256, 1)
merge_kernel(MergeArguments a) {
  const Problem& p = a.problem;
  const bool of_columns = block_index() >= a.row_blocks;
  const Side own = of_columns ? p.column : p.row, other = of_columns ? p.row : p.column;
  const auto of = of_columns ? a.columns : a.rows;
  const std::int64_t first = (block_index() - (of_columns ? a.row_blocks : 0)) * thread_count();
  const std::int64_t i = first + thread_index(), total = own.total;
  const bool inside = p.positives == Positives::kInside;
  const int components = partial_components(p);
  Partial sum;
  if (i < total && (own.mask == nullptr || own.mask[i] != 0))
    for (std::int64_t slot = 0; slot < of.slots; ++slot)
      sum.merge(Partial::read(of.partials + slot * components * total + i, total, components), p.bounded, inside);
  const float infinity = DeviceMath::from_bits(0x7f800000u);
  // Sums are 0 where nothing was summed; NaN is no such sum and must stay.
  float positive;
  if (inside)
    positive = sum.a == 0.0f ? -infinity : natural_log(sum.a, sum.m_in);
  else
    positive = sum.W == 0.0f ? 0.0f : sum.a / sum.W / p.temperature[0];
  float* far = reinterpret_cast<float*>(shared_memory()) + 256;
  far[thread_index()] = !inside && sum.W > 0.0f && sum.W < kTinyWeights ? 1.0f : 0.0f;
  if (sum_over_block(far[thread_index()]) > 0.0f)
    for (int r = 0; r < thread_count(); ++r) {
      if (far[r] == 0.0f) continue;
      float weight_sum, mean;
      sum_far_row(p, own, other, first + r, weight_sum, mean);
      if (r != thread_index()) continue;
      sum.W = weight_sum;
      positive = mean / p.temperature[0];
    }
  if (i >= total) return;
  of.stats[i] = sum.l == 0.0f ? -infinity : natural_log(sum.l, p.bounded ? 0.0f : sum.m);
  of.stats[total + i] = inside && !p.weight_stats && sum.W > 0.0f ? 1.0f : sum.W;
  of.stats[2 * total + i] = positive;
  of.stats[3 * total + i] = p.weight_stats ? sum.h * kLn2 : DeviceMath::from_bits(0x7fc00000u);
}

// Upstream gradients are scaled by a power of two, the loss scale, so that the largest is near 2^kGradientExponent: dS in
// float16 would underflow otherwise; and by less where b / W of a row far from all keys would overflow.
constexpr int kGradientExponent = 11, kQuotientExponent = 125, kMostScale = 100, kMostScaleBlocks = 64;

struct CoefficientArguments {
  struct {
    const float* stats = nullptr;  // [4, total]
    const float* grad = nullptr;   // [2, total]
    const unsigned char* mask = nullptr;
    std::int64_t total = 0, blocks = 0;
    float* coefficients = nullptr;  // [kCoefficients, total]
  } rows, columns;                  // no columns when not symmetric
  bool bounded = false, inside = false, folded = false;
  const float* temperature = nullptr;
  std::int64_t scale_blocks = 0, blocks = 0;
  float* scale_exponents = nullptr;  // [scale_blocks]
  float* loss_scale = nullptr;       // [1]
  float* cleared = nullptr;          // [cleared_count]: set to zero
  std::int64_t cleared_count = 0;    // a multiple of 4
};

/// floor(log2 |x|) of a normal number; -127 of 0, 128 of infinity and NaN.
LAPAROFLOW_DEVICE int exponent_of(float x) { return static_cast<int>(DeviceMath::to_bits(x) >> 23 & 255) - 127; }
LAPAROFLOW_DEVICE float smallest_over_block(float x) {
  return combine_over_block(x, [](float a, float b) { return DeviceMath::min(a, b); });
}

/// The loss scale's exponent by the rows of each block.
LAPAROFLOW_KERNEL(256, 1)
scale_kernel(CoefficientArguments a) {
  int least = kMostScale;
  const auto at_most = [&](int exponent) { least = exponent < least ? exponent : least; };
  const auto look_at = [&](const auto& side) {
    for (std::int64_t i = block_index() * 256 + thread_index(); i < side.total; i += a.scale_blocks * 256) {
      const int lse = exponent_of(side.grad[i]), positive = exponent_of(side.grad[side.total + i]);
      const float weights = side.stats[side.total + i];
      if (lse < 128) at_most(kGradientExponent - lse);
      if (positive < 128) at_most(kGradientExponent - positive);
      if (positive < 128 && !a.inside && weights > 0.0f) at_most(kQuotientExponent - positive + exponent_of(weights));
    }
  };
  look_at(a.rows);
  look_at(a.columns);
  const float exponent = smallest_over_block(static_cast<float>(least));
  if (thread_index() == 0) a.scale_exponents[block_index()] = exponent;
}

/// x * log2(e), and in `residual` what rounding took from it, so that a factor 2^residual can make it good.
LAPAROFLOW_DEVICE float to_base_2(float x, float& residual) {
  constexpr float kLog2eLow = 1.925963033500966e-8f;  // log2(e) - kLog2e
  const float y = x * kLog2e;
  residual = DeviceMath::fma(x, kLog2eLow, DeviceMath::fma(x, kLog2e, -y));
  return y;
}

/// Coefficients of dS from the statistics and upstream gradients, one thread a pixel; and zeros, by all threads.
LAPAROFLOW_KERNEL(256, 1)
coefficient_kernel(CoefficientArguments a) {
  const int t = thread_index();
  const FloatQuad zeros{{0.0f, 0.0f, 0.0f, 0.0f}};
  for (std::int64_t c = (block_index() * thread_count() + t) * 4; c < a.cleared_count; c += a.blocks * thread_count() * 4)
    *reinterpret_cast<FloatQuad*>(a.cleared + c) = zeros;
  const float exponent = smallest_over_block(t < a.scale_blocks ? a.scale_exponents[t] : static_cast<float>(kMostScale));
  const float loss_scale = accurate_exp2(DeviceMath::max(exponent, -static_cast<float>(kMostScale)));
  if (block_index() == 0 && t == 0) a.loss_scale[0] = loss_scale;
  const bool of_columns = block_index() >= a.rows.blocks;
  const auto of = of_columns ? a.columns : a.rows;
  const std::int64_t i = (block_index() - (of_columns ? a.rows.blocks : 0)) * thread_count() + t;
  if (i >= of.total) return;
  const bool valid = of.mask == nullptr || of.mask[i] != 0;
  const float infinity = DeviceMath::from_bits(0x7f800000u);
  const float lse = of.stats[i], weight_sum = of.stats[of.total + i], positive = of.stats[2 * of.total + i];
  const bool has_denominator = valid && !(lse == -infinity);
  const bool has_positive = valid && !(weight_sum == 0.0f) && !(positive == -infinity);
  const float denominator = has_denominator ? of.grad[i] * loss_scale : 0.0f;
  const float b = has_positive ? of.grad[of.total + i] * loss_scale : 0.0f;
  float lse_rest, positive_rest;
  const float lse2 = to_base_2(has_denominator ? lse : 0.0f, lse_rest);
  const float positive2 = to_base_2(a.inside && has_positive ? positive : 0.0f, positive_rest);
  const float sign = a.folded && denominator < 0.0f ? -1.0f : 1.0f;
  of.coefficients[kDenominator * of.total + i] =
      !a.folded             ? (a.bounded ? denominator * accurate_exp2(-lse2) : denominator) * (1.0f - kLn2 * lse_rest)
      : denominator == 0.0f ? kExcluded
                            : accurate_log2(sign * denominator) - lse_rest - lse2;
  of.coefficients[kLogSum * of.total + i] = a.folded ? sign * (kLog2e / a.temperature[0]) : lse2;
  of.coefficients[kPositive * of.total + i] = sign * (a.inside       ? b * (1.0f - kLn2 * positive_rest)
                                                      : has_positive ? b / weight_sum
                                                                     : 0.0f);
  of.coefficients[kPositiveLog * of.total + i] = positive2;
}

}  // namespace laparoflow::cuda
