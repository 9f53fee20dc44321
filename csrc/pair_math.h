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
enum class Reduction : int { kMean = 0, kSum = 1 };

struct PairOptions {
  FlowKernel flow_kernel = FlowKernel::kGaussian;
  Positives positives = Positives::kOutside;
  Negatives negatives = Negatives::kAll;
  Scope scope = Scope::kFrame;
  bool symmetric = false, bounded = false;
  bool full_float = true;      // CUDA, float32: five tf32 products per product instead of one
  bool deterministic = false;  // CUDA: the backward in two passes, without atomics
  bool weight_stats = true;    // else weight log sums mean nothing, and inside weight sums only tell 0 from more
};

/// An option's argument and the names of its enumerators in their order; laparoflow_kernels/problem.py has the same lists.
template <class Option>
struct OptionNames;
#define LAPAROFLOW_OPTION(Option, argument, ...)                \
  template <>                                                   \
  struct OptionNames<Option> {                                  \
    static constexpr const char* name = argument;               \
    static constexpr std::string_view values[] = {__VA_ARGS__}; \
  };
LAPAROFLOW_OPTION(FlowKernel, "flow_kernel", "gaussian", "laplace", "cauchy", "tophat")
LAPAROFLOW_OPTION(Positives, "positives", "outside", "inside")
LAPAROFLOW_OPTION(Negatives, "negatives", "all", "dissimilar")
LAPAROFLOW_OPTION(Scope, "scope", "frame", "batch")
LAPAROFLOW_OPTION(Reduction, "reduction", "mean", "sum")
#undef LAPAROFLOW_OPTION

template <class Option>
bool parse_option(std::string_view name, Option& option) {
  int index = 0;
  for (const std::string_view value : OptionNames<Option>::values) {
    if (value == name) return option = static_cast<Option>(index), true;
    ++index;
  }
  return false;
}

template <class Option>
std::string unknown_option(std::string_view got) {
  std::string text = std::string(OptionNames<Option>::name) + ": expected one of ";
  for (const std::string_view value : OptionNames<Option>::values) text += "'" + std::string(value) + "', ";
  return text + "got '" + std::string(got) + "'";
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
