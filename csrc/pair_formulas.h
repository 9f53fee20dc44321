// The formulas of a pair, written once: for one number (CUDA) and for vectors of them (CPU).
//
//   w  = phi(r), r = |f_i - g_j| / bandwidth, evaluated as 2^(log2 w); weights below 2^-126 are zero
//   dS = a n e^s + b w                          (outside; a, b: coefficients of the pair)
//
// `Math` names what it computes with, Number, and supplies exp2, negative_log2, sqrt, reciprocal, fma, floored and select.
// floored holds an exponent where exp2 takes it and its product with a weight of 0 is 0. On the CPU this is included under
// the target of each instruction set, and Math is local to it, so that nothing of one set reaches another.
#pragma once

#include <limits>

#include "pair_math.h"

namespace laparoflow {

/// log2 w and w of a pair; w == 0 exactly when log2 w < -126, where the logarithm means nothing.
template <class Number>
struct PairWeight {
  Number log2, value;
};

/// The factor of r2 (of its root for laplace) in the weight's exponent, or in its argument; `Scalar` is float or double.
/// That of tophat is smaller by four roundings, so that r = 1 itself counts, however r2 is rounded.
template <class Scalar>
LAPAROFLOW_HOST_DEVICE constexpr Scalar pair_gain(FlowKernel kernel, Scalar inv_bandwidth) {
  const Scalar square = inv_bandwidth * inv_bandwidth;
  return kernel == FlowKernel::kGaussian  ? square * static_cast<Scalar>(-0.5 * 1.44269504088896340736)
         : kernel == FlowKernel::kLaplace ? inv_bandwidth * static_cast<Scalar>(-1.44269504088896340736)
         : kernel == FlowKernel::kTophat  ? square * (1 - 4 * std::numeric_limits<Scalar>::epsilon())
                                          : square;
}

template <class Math, class Scalar>
LAPAROFLOW_HOST_DEVICE PairWeight<typename Math::Number> pair_weight(FlowKernel kernel, typename Math::Number r2,
                                                                     Scalar gain) {
  using Number = typename Math::Number;
  const Number zero = Number{};
  PairWeight<Number> w;
  if (kernel == FlowKernel::kGaussian || kernel == FlowKernel::kLaplace) {
    w.log2 = Math::floored((kernel == FlowKernel::kGaussian ? r2 : Math::sqrt(r2)) * gain);
    w.value = Math::exp2(w.log2);
  } else if (kernel == FlowKernel::kCauchy) {
    const Number t = Math::fma(r2, zero + gain, zero + Scalar(1));
    w.log2 = Math::floored(Math::negative_log2(t));
    w.value = Math::select(w.log2 < Scalar(-126), zero, Math::reciprocal(t));
  } else {
    w.log2 = zero;
    w.value = Math::select(r2 * gain <= Scalar(1), zero + Scalar(1), zero);
  }
  return w;
}

/// dS of a pair from e^s, its weight, and the coefficients a n and b.
template <class Number, class Coefficient>
LAPAROFLOW_HOST_DEVICE Number pair_gradient(Number e, Number weight, Coefficient a, Coefficient b) {
  return e * a + weight * b;
}

}  // namespace laparoflow
