// Pair mathematics of the flow-weighted contrastive loss, shared by host and device.
//
//   r2_ij = |f_i - g_j|^2                      squared flow difference, differences taken first
//   w_ij  = phi(sqrt(r2) * inv_bandwidth)      weights below 2^-126 are zero
//   n_ij  = 1 ("all") or 1 - w_ij ("dissimilar")
//
// Everything is evaluated in base 2: a weight is the pair (log2 w, w), so that the gaussian
// and laplace kernels need one exp2 and the "inside" form adds log2 w to the logit.
// `Math` supplies exp2 (results below 2^-126 are 0), log2, sqrt and so on, so that a device can use
// its own units.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#if defined(__CUDACC__)
#define LAPAROFLOW_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define LAPAROFLOW_HOST_DEVICE inline
#endif

namespace laparoflow {

enum class FlowKernel : int { kGaussian = 0, kLaplace = 1, kCauchy = 2, kTophat = 3 };
enum class Positives : int { kOutside = 0, kInside = 1 };
enum class Negatives : int { kAll = 0, kDissimilar = 1 };
enum class Scope : int { kFrame = 0, kBatch = 1 };

namespace detail {
[[noreturn]] inline void unknown_option(const char* name, const char* expected, std::string_view got) {
  throw std::invalid_argument(std::string(name) + " must be one of " + expected + ", got '" + std::string(got) + "'");
}
}  // namespace detail

inline FlowKernel parse_flow_kernel(std::string_view name) {
  if (name == "gaussian") return FlowKernel::kGaussian;
  if (name == "laplace") return FlowKernel::kLaplace;
  if (name == "cauchy") return FlowKernel::kCauchy;
  if (name == "tophat") return FlowKernel::kTophat;
  detail::unknown_option("flow_kernel", "gaussian, laplace, cauchy, tophat", name);
}

inline Positives parse_positives(std::string_view name) {
  if (name == "outside") return Positives::kOutside;
  if (name == "inside") return Positives::kInside;
  detail::unknown_option("positives", "outside, inside", name);
}

inline Negatives parse_negatives(std::string_view name) {
  if (name == "all") return Negatives::kAll;
  if (name == "dissimilar") return Negatives::kDissimilar;
  detail::unknown_option("negatives", "all, dissimilar", name);
}

inline Scope parse_scope(std::string_view name) {
  if (name == "frame") return Scope::kFrame;
  if (name == "batch") return Scope::kBatch;
  detail::unknown_option("scope", "frame, batch", name);
}

constexpr float kLog2e = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;
constexpr float kExcluded = -1e30f;      // log2 of "no pair": finite, so that 0 * kExcluded stays 0
constexpr float kEmptyMaximum = -1e20f;  // a running maximum over nothing, far above kExcluded
constexpr float kWeightFloor = -126.5f;  // log2 weights are clamped here; below -126 a weight is zero

// A pair that has no weight (masked, out of range, of another frame) is marked in its flows: the row side gets
// kFarFlow, the column side -kFarFlow, and real flows are held within kFlowLimit. The squared difference is then
// at least kFarSquare, where every kernel gives 0, and finite, so that 0 * r2 stays 0. No bias is added per pair.
constexpr float kFlowLimit = 1e18f;
constexpr float kFarFlow = 3e18f;
constexpr float kFarSquare = 3.9e36f;

/// A flow component held within kFlowLimit; NaN stays NaN.
LAPAROFLOW_HOST_DEVICE float limited_flow(float x) {
  return x > kFlowLimit ? kFlowLimit : x < -kFlowLimit ? -kFlowLimit : x;
}

/// log2 w and w of one pair; w == 0 exactly when log2 w < -126.
struct Weight {
  float log2;
  float value;
};

/// The factor that the weight applies to r2 (to r for laplace), from 1 / bandwidth. Of the exponential kernels it is
/// never so small that kFarSquare would have a weight.
LAPAROFLOW_HOST_DEVICE float weight_gain(FlowKernel kernel, float inv_bandwidth) {
  const float square = inv_bandwidth * inv_bandwidth;
  if (kernel == FlowKernel::kGaussian) return square * (-0.5f * kLog2e) < -1e-34f ? square * (-0.5f * kLog2e) : -1e-34f;
  if (kernel == FlowKernel::kLaplace) return inv_bandwidth * -kLog2e < -1e-16f ? inv_bandwidth * -kLog2e : -1e-16f;
  return square;
}

/// 2^(x * gain) for |x * gain| <= 126 by a degree 5 polynomial (relative error 1e-7) on multiply-add units. 9 instructions:
/// the floor of the product comes out of one multiply-add rounded down.
template <class Math>
LAPAROFLOW_HOST_DEVICE float exp2_polynomial(float x, float gain) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float shifted = Math::fma_round_down(x, gain, magic);
  const float f = Math::fma(x, gain, magic - shifted);
  float p = 1.8775759963318706e-3f;
  p = Math::fma(p, f, 8.98934155702591e-3f);
  p = Math::fma(p, f, 5.582631751894951e-2f);
  p = Math::fma(p, f, 2.4015361070632935e-1f);
  p = Math::fma(p, f, 6.931530833244324e-1f);
  p = Math::fma(p, f, 9.999999403953552e-1f);
  return Math::scale_by_low_bits(p, shifted);
}

/// e^s of a bounded logit, 2^(x * scale), on the exp unit or (`polynomial`) on the multiply-add units.
template <class Math>
LAPAROFLOW_HOST_DEVICE float bounded_exponential(float x, float scale, bool polynomial) {
  return polynomial ? exp2_polynomial<Math>(x, scale) : Math::exp2(x * scale);
}

/// Weight of one pair, any kernel.
template <class Math>
LAPAROFLOW_HOST_DEVICE Weight pair_weight(FlowKernel kernel, float r2, float gain) {
  Weight w;
  if (kernel == FlowKernel::kGaussian || kernel == FlowKernel::kLaplace) {
    const float distance = kernel == FlowKernel::kGaussian ? r2 : Math::sqrt(r2);
    w.log2 = Math::max(distance * gain, kWeightFloor);
    w.value = Math::exp2(w.log2);
  } else if (kernel == FlowKernel::kCauchy) {
    const float t = Math::fma(r2, gain, 1.0f);
    w.log2 = r2 < kFarSquare ? Math::max(-Math::log2(t), kWeightFloor) : kWeightFloor;
    w.value = w.log2 < -126.0f ? 0.0f : Math::reciprocal(t);
  } else {
    const bool in = r2 * gain <= 1.0f && r2 < kFarSquare;
    w.log2 = in ? 0.0f : kWeightFloor;
    w.value = in ? 1.0f : 0.0f;
  }
  return w;
}

/// The exponent of w e^s in base 2, kExcluded where w = 0.
LAPAROFLOW_HOST_DEVICE float inside_exponent(float logit2, Weight w) { return w.value > 0.0f ? logit2 + w.log2 : kExcluded; }

/// log2 of n e^s for the denominator: s in base 2, and the weight where negatives are dissimilar.
template <class Math>
LAPAROFLOW_HOST_DEVICE float denominator_exponent(Negatives negatives, float logit2, Weight w) {
  if (negatives == Negatives::kAll) return logit2;
  const float n = 1.0f - w.value;
  return n > 0.0f ? logit2 + Math::log2(n) : kExcluded;
}

}  // namespace laparoflow
