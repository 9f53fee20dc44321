// From the sums over a pixel's pairs to its statistics, for rows and columns alike. Internal linkage: units of several
// instruction sets include this.
#pragma once

#include "engine.h"

namespace {

constexpr double kLog2e = 1.44269504088896340736;
constexpr double kLn2 = 0.69314718055994530942;

enum Sum { kSumA, kSumW, kSumPositive, kSumWLogW, kSums };

// The statistics of pixel `at`, which meets so many partners, from its sums; guarded, with what was subtracted in them.
// False where positive sums of the inside form underflowed.
template <class T>
bool finish_pixel(const laparoflow::cpu::Pairs<T>& pairs, const double (&sums)[kSums], double max, double max_positive,
                  int64_t partners, const laparoflow::cpu::Stats<T>& out, int64_t at) {
  const double a = sums[kSumA], w = sums[kSumW], p = sums[kSumPositive];
  if (pairs.inside && !pairs.guarded && w > 0 && p < laparoflow::cpu::kLeastPositive<T>) return false;
  out.lse[at] = static_cast<T>(a > 0 ? max + std::log(a) : -INFINITY);
  out.weight_sum[at] = static_cast<T>(w);
  out.weight_log_sum[at] = static_cast<T>(kLn2 * sums[kSumWLogW]);
  if (pairs.inside)
    out.positive[at] = static_cast<T>(p > 0 && w > 0 ? max_positive + std::log(p) : -INFINITY);
  else
    out.positive[at] = static_cast<T>(w > 0 ? (pairs.guarded ? 1.0 : kLn2) * p / w : 0);
  if (!pairs.inside && !pairs.dissimilar && w > 0 && partners == 1) out.lse[at] = out.positive[at];  // both: the one logit
  return true;
}

}  // namespace
