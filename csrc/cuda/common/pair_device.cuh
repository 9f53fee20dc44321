// The pair mathematics of pair_formulas.h on the device: marks of pairs without weight, exponentials on either unit.
#pragma once

#include "../../pair_formulas.h"
#include "instructions.cuh"

namespace laparoflow::cuda {

using Weight = PairWeight<float>;

struct PairMath : DeviceMath {
  using Number = float;
  LAPAROFLOW_DEVICE static float negative_log2(float x) { return -DeviceMath::log2(x); }
  LAPAROFLOW_DEVICE static float floored(float x) { return DeviceMath::max(x, kWeightFloor); }
  LAPAROFLOW_DEVICE static float select(bool where, float a, float b) { return where ? a : b; }
};

/// The gain of a weight. Of the exponential kernels it is never so small that kFarSquare would have a weight.
LAPAROFLOW_DEVICE float weight_gain(FlowKernel kernel, float inv_bandwidth) {
  const float gain = pair_gain(kernel, inv_bandwidth);
  if (kernel == FlowKernel::kGaussian) return DeviceMath::min(gain, -1e-34f);
  return kernel == FlowKernel::kLaplace ? DeviceMath::min(gain, -1e-16f) : gain;
}

/// Weight of one pair, any kernel; 0 for a pair that is marked to have none.
LAPAROFLOW_DEVICE Weight marked_weight(FlowKernel kernel, float r2, float gain) {
  Weight w = pair_weight<PairMath>(kernel, r2, gain);
  if (r2 >= kFarSquare) w = Weight{kWeightFloor, 0.0f};
  return w;
}

/// Below 2, and above 0 where one of three numbers is, all of which are so: one operation for two weights.
LAPAROFLOW_DEVICE float any_weight(float a, float b, float c) {
  return DeviceMath::from_bits(DeviceMath::to_bits(a) | DeviceMath::to_bits(b) | DeviceMath::to_bits(c));
}

/// log2 of n e^s or of w e^s: x * scale + mark + factor, with a mark of 0 or kExcluded, and the logarithm of n or w. At a
/// temperature of 0.01 the sum is rounded by up to 2^-17; what it is above another, in one multiply-add, by next to nothing.
struct Exponent {
  float x, mark, factor;
  LAPAROFLOW_DEVICE float value(float scale) const { return DeviceMath::fma(x, scale, mark) + factor; }
  LAPAROFLOW_DEVICE float above(float other, float scale) const { return DeviceMath::fma(x, scale, mark - other) + factor; }
};
/// log2 n, or log2 w; kExcluded where it is 0.
LAPAROFLOW_DEVICE float denominator_factor(bool dissimilar, Weight w) {
  const float n = 1.0f - w.value;
  return !dissimilar ? 0.0f : n > 0.0f ? DeviceMath::log2(n) : kExcluded;
}
LAPAROFLOW_DEVICE float inside_factor(Weight w) { return w.value > 0.0f ? w.log2 : kExcluded; }

/// 2^(x * gain) for |x * gain| <= 126 by a degree 5 polynomial (relative error 1e-7) on multiply-add units. 9 instructions:
/// the floor of the product comes out of one multiply-add rounded down.
LAPAROFLOW_DEVICE float exp2_polynomial(float x, float gain) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float shifted = DeviceMath::fma_round_down(x, gain, magic);
  const float f = DeviceMath::fma(x, gain, magic - shifted);
  float p = 1.8775759963318706e-3f;
  p = DeviceMath::fma(p, f, 8.98934155702591e-3f);
  p = DeviceMath::fma(p, f, 5.582631751894951e-2f);
  p = DeviceMath::fma(p, f, 2.4015361070632935e-1f);
  p = DeviceMath::fma(p, f, 6.931530833244324e-1f);
  p = DeviceMath::fma(p, f, 9.999999403953552e-1f);
  return DeviceMath::scale_by_low_bits(p, shifted);
}

/// e^s of a bounded logit, 2^(x * scale), on the exp unit or (`polynomial`) on the multiply-add units.
LAPAROFLOW_DEVICE float bounded_exponential(float x, float scale, bool polynomial) {
  return polynomial ? exp2_polynomial(x, scale) : DeviceMath::exp2(x * scale);
}

}  // namespace laparoflow::cuda
