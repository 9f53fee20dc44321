// Options and constants of the pair mathematics, shared by CPU and CUDA; the formulas are in pair_formulas.h.
//
//   r2_ij = |f_i - g_j|^2                      squared flow difference, differences taken first
//   w_ij  = phi(sqrt(r2) * inv_bandwidth)      weights below 2^-126 are zero
//   n_ij  = 1 ("all") or 1 - w_ij ("dissimilar")
//
// Everything is evaluated in base 2: a weight is the pair (log2 w, w), so that the gaussian
// and laplace kernels need one exp2 and the "inside" form adds log2 w to the logit.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#if defined(__CUDACC__)
#define LAPAROFLOW_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define LAPAROFLOW_HOST_DEVICE inline __attribute__((always_inline))
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

}  // namespace laparoflow
