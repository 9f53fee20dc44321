// The small kernels around the two large ones: merging the forward's partial statistics, preparing
// the coefficients of the backward, reducing the temperature's gradient. One pass over [total] each.
// Included by entry.cu alone, since a kernel that is no template may be defined only once.
#pragma once

#include "backward.cuh"
#include "partial.cuh"

namespace laparoflow::cuda {

struct MergeArguments {
  const float* partials = nullptr;  // [slots, components, total]
  std::int64_t slots = 0, total = 0;
  const unsigned char* mask = nullptr;
  const float* temperature = nullptr;
  bool bounded = false, inside = false;
  float* stats = nullptr;  // [4, total]
};

/// ln(x 2^m), rounded once at its own size.
LAPAROFLOW_DEVICE float natural_log(float x, float m) {
  constexpr float kLn2Low = -1.904654299957768e-9f;  // ln 2 - kLn2
  return DeviceMath::fma(m, kLn2, DeviceMath::fma(m, kLn2Low, accurate_log2(x) * kLn2));
}

/// Merges the slots of each row in order and writes its statistics; one thread per row.
LAPAROFLOW_KERNEL(256, 1)
merge_kernel(MergeArguments a) {
  const std::int64_t i = block_index() * thread_count() + thread_index();
  if (i >= a.total) return;
  const int components = a.bounded && !a.inside ? 4 : kMaxComponents;
  Partial sum;
  const bool valid = a.mask == nullptr || a.mask[i] != 0;
  if (valid)
    for (std::int64_t slot = 0; slot < a.slots; ++slot)
      sum.merge(Partial::read(a.partials + slot * components * a.total + i, a.total, components), a.bounded, a.inside);
  const float infinity = DeviceMath::from_bits(0x7f800000u);
  const float m = a.bounded ? 0.0f : sum.m;
  // Sums are 0 where nothing was summed; NaN is no such sum and must stay.
  float positive;
  if (a.inside)
    positive = sum.a == 0.0f ? -infinity : natural_log(sum.a, sum.m_in);
  else
    positive = sum.W == 0.0f ? 0.0f : sum.a / sum.W / a.temperature[0];
  a.stats[i] = sum.l == 0.0f ? -infinity : natural_log(sum.l, m);
  a.stats[a.total + i] = sum.W;
  a.stats[2 * a.total + i] = positive;
  a.stats[3 * a.total + i] = sum.h * kLn2;
}

struct ScaleArguments {
  const float* row_grad = nullptr;     // [2, row_total]
  const float* column_grad = nullptr;  // [2, column_total] or null
  std::int64_t row_total = 0, column_total = 0;
  bool scaled = false;  // float16
  float* loss_scale = nullptr;
};

/// Sums or maximises one value per thread over a block of 256; the result is in every thread.
template <class Combine>
LAPAROFLOW_DEVICE float combine_over_block(float value, Combine combine) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  shared[thread_index()] = value;
  block_barrier();
  for (int half = thread_count() / 2; half > 0; half /= 2) {
    if (thread_index() < half) shared[thread_index()] = combine(shared[thread_index()], shared[thread_index() + half]);
    block_barrier();
  }
  return shared[0];
}

/// The power of two that brings the largest upstream gradient to [2^11, 2^12); 1 unless `scaled`. One block.
LAPAROFLOW_KERNEL(256, 1)
scale_kernel(ScaleArguments a) {
  float largest = 0.0f;
  if (a.scaled) {
    for (std::int64_t i = thread_index(); i < 2 * a.row_total; i += thread_count())
      largest = DeviceMath::max(largest, DeviceMath::abs(a.row_grad[i]));
    if (a.column_grad != nullptr)
      for (std::int64_t i = thread_index(); i < 2 * a.column_total; i += thread_count())
        largest = DeviceMath::max(largest, DeviceMath::abs(a.column_grad[i]));
  }
  largest = combine_over_block(largest, [](float x, float y) { return DeviceMath::max(x, y); });
  if (thread_index() != 0) return;
  const int exponent = static_cast<int>(DeviceMath::to_bits(largest) >> 23) - 127;  // of a positive number
  const bool usable = a.scaled && exponent > -100 && exponent < 100;
  a.loss_scale[0] = usable ? DeviceMath::from_bits(static_cast<std::uint32_t>(127 + 11 - exponent) << 23) : 1.0f;
}

struct CoefficientArguments {
  const float* stats = nullptr;  // [4, total]
  const float* grad = nullptr;   // [2, total]
  const unsigned char* mask = nullptr;
  const float* loss_scale = nullptr;
  std::int64_t total = 0;
  bool bounded = false, inside = false;
  float* coefficients = nullptr;  // [kCoefficients, total]
};

/// x * log2(e), and in `residual` what rounding took from it, so that a factor 2^residual can make it good.
LAPAROFLOW_DEVICE float to_base_2(float x, float& residual) {
  constexpr float kLog2eLow = 1.925963033500966e-8f;  // log2(e) - kLog2e
  const float y = x * kLog2e;
  residual = DeviceMath::fma(x, kLog2eLow, DeviceMath::fma(x, kLog2e, -y));
  return y;
}

/// Coefficients of dS from the statistics and upstream gradients of one side; one thread per row.
LAPAROFLOW_KERNEL(256, 1)
coefficient_kernel(CoefficientArguments a) {
  const std::int64_t i = block_index() * thread_count() + thread_index();
  if (i >= a.total) return;
  const bool valid = a.mask == nullptr || a.mask[i] != 0;
  const float infinity = DeviceMath::from_bits(0x7f800000u);
  const float lse = a.stats[i], weight_sum = a.stats[a.total + i], positive = a.stats[2 * a.total + i];
  const bool has_denominator = valid && !(lse == -infinity);
  const bool has_positive = valid && !(weight_sum == 0.0f) && !(positive == -infinity);
  const float denominator = has_denominator ? a.grad[i] * a.loss_scale[0] : 0.0f;
  const float b = has_positive ? a.grad[a.total + i] * a.loss_scale[0] : 0.0f;
  float lse_rest, positive_rest;
  const float lse2 = to_base_2(has_denominator ? lse : 0.0f, lse_rest);
  const float positive2 = to_base_2(a.inside && has_positive ? positive : 0.0f, positive_rest);
  a.coefficients[kDenominator * a.total + i] =
      (a.bounded ? denominator * accurate_exp2(-lse2) : denominator) * (1.0f - kLn2 * lse_rest);
  a.coefficients[kLogSum * a.total + i] = lse2;
  a.coefficients[kPositive * a.total + i] = a.inside       ? b * (1.0f - kLn2 * positive_rest)
                                            : has_positive ? b / weight_sum
                                                           : 0.0f;
  a.coefficients[kPositiveLog * a.total + i] = positive2;
}

struct ClearArguments {
  float* to = nullptr;
  std::int64_t count = 0;
};

/// Sets an array to zero; one thread a number.
LAPAROFLOW_KERNEL(256, 1)
clear_kernel(ClearArguments a) {
  const std::int64_t i = block_index() * thread_count() + thread_index();
  if (i < a.count) a.to[i] = 0.0f;
}

struct TemperatureArguments {
  const float* partials = nullptr;  // [count]
  std::int64_t count = 0;
  const float* temperature = nullptr;
  const float* loss_scale = nullptr;
  float* gradient = nullptr;
};

/// dtemperature = -sum dS x / temperature^2 from the partial sums of the blocks. One block.
LAPAROFLOW_KERNEL(256, 1)
temperature_kernel(TemperatureArguments a) {
  float sum = 0.0f;
  for (std::int64_t i = thread_index(); i < a.count; i += thread_count()) sum += a.partials[i];
  sum = combine_over_block(sum, [](float x, float y) { return x + y; });
  if (thread_index() == 0) a.gradient[0] = -sum / a.loss_scale[0] / (a.temperature[0] * a.temperature[0]);
}

}  // namespace laparoflow::cuda
