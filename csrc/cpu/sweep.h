// Sweeps over a chunk of pairs (keys x kRows queries): products in, pair terms, statistics or gradients out.
//
// With s = q.k / t, w = phi(|f - g| / bandwidth) and n = 1 or 1 - w, a pair has two terms
//     n e^(s - m_i)                               the softmax term; m_i = 0 where every |s| is small, else the row's maximum
//     w s (outside)   or   w e^(s - mp_i) (inside)   the positive term
// whose row sums give every statistic. The gradient needs a = e^(s - m_i) and b = w (outside, or inside with m_i = 0):
//     outside: dS = alpha_i n a + beta_i b      inside: dS = a (alpha_i n + beta_i b)
// The guarded form, with maxima, stores n a, and for inside the positive term itself, so that dS = alpha_i a + beta_i b.
//
// Small logits are computed in base 2. Guarded logits are natural and rounded once, as the statistics are: where one key
// outweighs all others, lse is that key's rounded logit, and their difference is 0 in the gradient. The same holds for
// s + ln n where n is not 1, and for s + ln w and the positive statistic of the inside form.
#pragma once

#include "../pair_formulas.h"
#include "engine.h"
#include "vec.h"

namespace {

using laparoflow::FlowKernel;
using laparoflow::cpu::kRows;

constexpr double kLog2e = 1.44269504088896340736;
constexpr double kLn2 = 0.69314718055994530942;

enum Sum { kSumA, kSumW, kSumPositive, kSumWLogW, kSums };

// What turns a product into a logit, log2(e) / t or (guarded) 1 / t, in two parts: its rounding would be the same for every
// pair, and add up in the gradient of the temperature.
template <class T>
struct Scale {
  T high, low;
  explicit Scale(double x) : high(static_cast<T>(x)), low(static_cast<T>(x - static_cast<double>(high))) {}
  LF_INLINE Vec<T> operator*(Vec<T> s) const { return s * high + s * low; }
};

// One block of query rows as the sweeps see it: [.., kRows] arrays, rows along the lanes.
template <class T>
struct RowBlock {
  T flow[laparoflow::cpu::kMaxFlowChannels][kRows];
  int64_t rows;           // how many of the kRows there are
  T live[kRows];          // 1 for those, 0 for padding
  T max_logit[kRows];     // m_i
  T max_positive[kRows];  // mp_i
  T sums[kSums][kRows];   // row sums, Kahan-compensated over chunks
  T lost[kSums][kRows];
  T alpha[kRows], beta[kRows];
  // gradient of given statistics: the guarded form's exponents, and sum_j dS_ij
  T lse[kRows], positive[kRows], ds[kRows];
};

// Per-key arrays of one chunk; column statistics and coefficients are null when one direction is asked for.
template <class T>
struct KeyChunk {
  int64_t keys;
  const T* flow;  // [keys, F]
  int channels;
  T inv_bandwidth2;
  bool excludes;                           // some logits are kNoPair: those pairs count nowhere
  double* column_sums[kSums];              // [keys] each, + this block's share
  T *column_max, *column_max_positive;     // [keys]: running maxima of the guarded form
  const T *alpha, *beta, *lse, *positive;  // [keys] gradient coefficients of the columns
};

// What the formulas of a pair compute with: vectors of rows.
template <class T>
struct VectorMath {
  using Number = Vec<T>;
  // the rule of every dtype: below 2^-126 is 0
  LF_INLINE static Number exp2(Number x) {
    const Number w = exp2_vec(x);
    return sizeof(T) == 8 ? (x < T(-126) ? splat<T>(T(0)) : w) : w;
  }
  LF_INLINE static Number negative_log2(Number x) { return log_vec<T>(x) * T(-kLog2e); }
  LF_INLINE static Number sqrt(Number x) { return vsqrt<T>(x); }
  LF_INLINE static Number reciprocal(Number x) { return T(1) / x; }
  LF_INLINE static Number fma(Number a, Number b, Number c) { return a * b + c; }
  LF_INLINE static Number floored(Number x) { return x; }  // exp2 takes any exponent
  LF_INLINE static Number select(VecInt<T> where, Number a, Number b) { return where ? a : b; }
};

// The weight of pairs whose squared distances are in units of the bandwidth.
template <class T, FlowKernel KERNEL>
LF_INLINE laparoflow::PairWeight<Vec<T>> weight_of(Vec<T> r2) {
  return laparoflow::pair_weight<VectorMath<T>>(KERNEL, r2, laparoflow::pair_gain(KERNEL, T(1)));
}

// The logit of a pair that counts nowhere (equal groups), and the squared distance at which every weight is 0. Both are
// finite: 0 times either stays 0.
constexpr float kNoPair = -1e30f, kNoWeight = 0x1p127f;

template <class T>
LF_INLINE Vec<T> flow_distance2(const RowBlock<T>& block, int lane, const T* key_flow, int channels, T inv_bandwidth2) {
  Vec<T> d = load<T>(block.flow[0] + lane) - key_flow[0];
  Vec<T> r2 = d * d;
  for (int c = 1; c < channels; ++c) {
    d = load<T>(block.flow[c] + lane) - key_flow[c];
    r2 += d * d;
  }
  return r2 * inv_bandwidth2;
}

// The weight of the pairs of key j of a chunk with the rows of a lane, whose products (logits before 1 / t) are given.
template <class T, FlowKernel KERNEL>
LF_INLINE laparoflow::PairWeight<Vec<T>> chunk_weight(const RowBlock<T>& block, int lane, const KeyChunk<T>& chunk,
                                                      int64_t j, Vec<T> product) {
  Vec<T> r2 = flow_distance2(block, lane, chunk.flow + j * chunk.channels, chunk.channels, chunk.inv_bandwidth2);
  if (chunk.excludes) r2 = product <= T(kNoPair) ? splat<T>(T(kNoWeight)) : r2;
  return weight_of<T, KERNEL>(r2);
}

// e^(logit - from), guarded: pairs that count nowhere may lie far above `from`, and must stay finite.
template <class T>
LF_INLINE Vec<T> exp_above(Vec<T> logit, Vec<T> from) {
  return exp2_vec(vmin((logit - from) * T(kLog2e), splat<T>(T(100))));
}
// The exponent of w e^s, natural; `none` where w = 0.
template <class T>
LF_INLINE Vec<T> positive_logit(Vec<T> logit, laparoflow::PairWeight<Vec<T>> w, T none) {
  return w.value > T(0) ? logit + w.log2 * T(kLn2) : splat<T>(none);
}

// The exponent of n e^s, natural; `none` where n = 0.
template <class T, class FORM>
LF_INLINE Vec<T> counted_logit(Vec<T> logit, Vec<T> w, T none) {
  if constexpr (!FORM::DISSIMILAR || !FORM::WEIGHTED) return logit;
  const Vec<T> n = T(1) - w;
  return n > T(0) ? logit - log_vec<T>(T(1) / n) : splat<T>(none);
}

// alpha a + beta b where both are shares of a softmax: exactly 0 for equal shares and beta = -alpha, with or without FMA.
template <class T>
LF_INLINE Vec<T> inside_gradient(Vec<T> a, Vec<T> b, Vec<T> alpha, Vec<T> beta) {
  return alpha * (a - b) + (alpha + beta) * b;
}

template <class T>
LF_INLINE void kahan_add(T* sum, T* lost, Vec<T> x) {
  // volatile-free compensation: kept from being simplified because the build never uses -ffast-math
  Vec<T> s = load<T>(sum), y = x - load<T>(lost), t = s + y;
  store<T>(lost, (t - s) - y);
  store<T>(sum, t);
}

// Options known at compile time. WEIGHTED: the chunk may hold positives (keys of the queries' own frame).
template <FlowKernel KERNEL_, bool INSIDE_, bool DISSIMILAR_, bool WEIGHTED_>
struct PairForm {
  static constexpr FlowKernel KERNEL = KERNEL_;
  static constexpr bool INSIDE = INSIDE_, DISSIMILAR = DISSIMILAR_, WEIGHTED = WEIGHTED_;
};

// Guarded form, first pass: row (and column) maxima of the logits.
template <class T, class FORM>
void maxima_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, const T* s, Scale<T> scale) {
  for (int lane = 0; lane < kRows; lane += kLanes<T>) {
    Vec<T> m = load<T>(block.max_logit + lane), mp = load<T>(block.max_positive + lane);
    const Vec<T> lowest = splat<T>(T(-INFINITY)), live = load<T>(block.live + lane);
    for (int64_t j = 0; j < chunk.keys; ++j) {
      const Vec<T> product = load<T>(s + j * kRows + lane);
      Vec<T> logit = scale * product, counted = logit, positive = lowest;
      if constexpr (FORM::WEIGHTED) {
        if (FORM::INSIDE || FORM::DISSIMILAR) {
          const auto pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
          counted = counted_logit<T, FORM>(logit, pair.value, T(-INFINITY));
          if (FORM::INSIDE) positive = positive_logit<T>(logit, pair, T(-INFINITY));
        }
      }
      if (chunk.excludes) counted = product <= T(kNoPair) ? lowest : counted;
      m = vmax(m, counted);
      mp = vmax(mp, positive);
      if (chunk.column_max) {
        Vec<T> c = live > T(0) ? counted : lowest, p = live > T(0) ? positive : lowest;
        for (int l = 0; l < kLanes<T>; ++l) {
          chunk.column_max[j] = c[l] > chunk.column_max[j] ? c[l] : chunk.column_max[j];
          chunk.column_max_positive[j] = p[l] > chunk.column_max_positive[j] ? p[l] : chunk.column_max_positive[j];
        }
      }
    }
    store<T>(block.max_logit + lane, m);
    store<T>(block.max_positive + lane, mp);
  }
}

// Row sums of the pair terms; STORE keeps a and b for the gradient. GUARDED subtracts the maxima.
template <class T, class FORM, bool STORE, bool GUARDED>
void row_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, const T* s, Scale<T> scale, T* a_out, T* b_out) {
  for (int lane = 0; lane < kRows; lane += kLanes<T>) {
    const Vec<T> m = load<T>(block.max_logit + lane), mp = load<T>(block.max_positive + lane);
    Vec<T> sum_a{}, sum_w{}, sum_p{}, sum_wlog{};
    for (int64_t j = 0; j < chunk.keys; ++j) {
      const int64_t at = j * kRows + lane;
      const Vec<T> product = load<T>(s + at);
      Vec<T> logit = scale * product;  // natural where guarded, else in base 2
      Vec<T> e = GUARDED ? exp_above<T>(logit, m) : exp2_vec(logit);
      Vec<T> counted = e;
      if constexpr (FORM::WEIGHTED) {
        const auto pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
        Vec<T> b = pair.value;
        if (FORM::INSIDE) {
          if (GUARDED) b = exp_above<T>(positive_logit<T>(logit, pair, T(kNoPair)), mp);
          sum_p += GUARDED ? b : b * e;
        } else {
          sum_p += pair.value * logit;
        }
        sum_w += pair.value;
        if (FORM::KERNEL != FlowKernel::kTophat) sum_wlog += pair.value > T(0) ? pair.value * pair.log2 : splat<T>(T(0));
        if (FORM::DISSIMILAR)
          counted =
              GUARDED ? exp_above<T>(counted_logit<T, FORM>(logit, pair.value, T(kNoPair)), m) : e * (T(1) - pair.value);
        if (STORE) store<T>(b_out + at, b);
      }
      sum_a += counted;
      if (STORE) store<T>(a_out + at, GUARDED ? counted : e);
    }
    kahan_add<T>(block.sums[kSumA] + lane, block.lost[kSumA] + lane, sum_a);
    if constexpr (FORM::WEIGHTED) {
      kahan_add<T>(block.sums[kSumW] + lane, block.lost[kSumW] + lane, sum_w);
      kahan_add<T>(block.sums[kSumPositive] + lane, block.lost[kSumPositive] + lane, sum_p);
      kahan_add<T>(block.sums[kSumWLogW] + lane, block.lost[kSumWLogW] + lane, sum_wlog);
    }
  }
}

// Row and column sums of the pair terms, one exp for both (only where no maximum is needed).
template <class T, class FORM>
void row_column_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, const T* s, Scale<T> scale2) {
  constexpr int groups = kRows / kLanes<T>;
  constexpr int used = FORM::WEIGHTED ? kSums : 1;
  const bool full = block.rows == kRows;
  Vec<T> rows[kSums][groups] = {};
  for (int64_t j = 0; j < chunk.keys; ++j) {
    Vec<T> column[kSums] = {};
    for (int g = 0; g < groups; ++g) {
      const int lane = g * kLanes<T>;
      const Vec<T> product = load<T>(s + j * kRows + lane);
      Vec<T> s2 = scale2 * product;
      Vec<T> terms[kSums];
      Vec<T> e = exp2_vec(s2);
      if constexpr (FORM::WEIGHTED) {
        const auto pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
        terms[kSumW] = pair.value;
        terms[kSumPositive] = pair.value * (FORM::INSIDE ? e : s2);
        terms[kSumWLogW] = pair.value > T(0) ? pair.value * pair.log2 : splat<T>(T(0));
        if (FORM::DISSIMILAR) e *= T(1) - pair.value;
      }
      terms[kSumA] = e;
      const Vec<T> live = load<T>(block.live + lane);
      for (int k = 0; k < used; ++k) {
        rows[k][g] += terms[k];
        column[k] += full ? terms[k] : terms[k] * live;
      }
    }
    if constexpr (FORM::WEIGHTED) {
      T sums[kSums];
      horizontal_sums<T>(column, sums);
      for (int k = 0; k < kSums; ++k) chunk.column_sums[k][j] += sums[k];
    } else {
      chunk.column_sums[kSumA][j] += horizontal_sum<T>(column[kSumA]);
    }
  }
  for (int k = 0; k < used; ++k)
    for (int g = 0; g < groups; ++g) kahan_add<T>(block.sums[k] + g * kLanes<T>, block.lost[k] + g * kLanes<T>, rows[k][g]);
}

// Column sums against known column maxima: the second pass of the guarded form.
template <class T, class FORM>
void guarded_column_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, const T* s, Scale<T> scale) {
  for (int64_t j = 0; j < chunk.keys; ++j) {
    Vec<T> total[kSums] = {};
    for (int lane = 0; lane < kRows; lane += kLanes<T>) {
      const Vec<T> live = load<T>(block.live + lane);
      const Vec<T> product = load<T>(s + j * kRows + lane), logit = scale * product;
      Vec<T> w{};
      if constexpr (FORM::WEIGHTED) {
        const auto pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
        const Vec<T> b =
            FORM::INSIDE ? exp_above<T>(positive_logit<T>(logit, pair, T(kNoPair)), splat<T>(chunk.column_max_positive[j]))
                         : pair.value * logit;
        total[kSumW] += pair.value * live;
        total[kSumPositive] += b * live;
        total[kSumWLogW] += pair.value > T(0) ? pair.value * pair.log2 * live : splat<T>(T(0));
        w = pair.value;
      }
      total[kSumA] += exp_above<T>(counted_logit<T, FORM>(logit, w, T(kNoPair)), splat<T>(chunk.column_max[j])) * live;
    }
    for (int k = 0; k < (FORM::WEIGHTED ? kSums : 1); ++k) chunk.column_sums[k][j] += horizontal_sum<T>(total[k]);
  }
}

// dS from the stored terms.
template <class T, class FORM, bool GUARDED>
void combine_sweep(const RowBlock<T>& block, int64_t keys, const T* a, const T* b, T* ds) {
  for (int lane = 0; lane < kRows; lane += kLanes<T>) {
    const Vec<T> alpha = load<T>(block.alpha + lane), beta = load<T>(block.beta + lane);
    for (int64_t at = lane; at < keys * kRows; at += kRows) {
      Vec<T> term = load<T>(a + at), d;
      if constexpr (!FORM::WEIGHTED) {
        d = term * alpha;
      } else {
        const Vec<T> w = load<T>(b + at);
        if (GUARDED && FORM::INSIDE)
          d = inside_gradient<T>(term, w, alpha, beta);
        else if (GUARDED || !(FORM::INSIDE || FORM::DISSIMILAR))
          d = laparoflow::pair_gradient(term, w, alpha, beta);
        else if (FORM::INSIDE)
          d = term * ((FORM::DISSIMILAR ? (T(1) - w) * alpha : alpha) + w * beta);
        else
          d = laparoflow::pair_gradient(term, w, (T(1) - w) * alpha, beta);
      }
      store<T>(ds + at, d);
    }
  }
}

// dS of given statistics: rows, and columns where the chunk carries coefficients. s holds products, then dS. Padding rows
// get values too: their queries are 0 and their dq is dropped.
//   small logits: (alpha_i + alpha_j) n e + (beta_i + beta_j) (w | w e), e = e^s, alpha and beta holding e^-lse etc.
//   guarded:      alpha_i n e^(s - lse_i) + beta_i (w | w e^(s - positive_i)) + the same of the column
template <class T, class FORM, bool GUARDED>
void gradient_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, T* s, Scale<T> scale) {
  for (int lane = 0; lane < kRows; lane += kLanes<T>) {
    const Vec<T> alpha = load<T>(block.alpha + lane), beta = load<T>(block.beta + lane);
    const Vec<T> lse = load<T>(block.lse + lane), positive = load<T>(block.positive + lane);
    Vec<T> total{};
    for (int64_t j = 0; j < chunk.keys; ++j) {
      T* at = s + j * kRows + lane;
      const Vec<T> product = load<T>(at), logit = scale * product;
      Vec<T> d;
      laparoflow::PairWeight<Vec<T>> pair{};
      if constexpr (FORM::WEIGHTED) pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
      const Vec<T> w = pair.value;
      if (!GUARDED) {
        Vec<T> e = exp2_vec(logit);
        Vec<T> row_a = alpha, row_b = beta;
        if (chunk.alpha) {
          row_a += chunk.alpha[j];
          row_b += chunk.beta[j];
        }
        if (FORM::DISSIMILAR && FORM::WEIGHTED) row_a *= T(1) - w;
        if (!FORM::WEIGHTED)
          d = e * row_a;
        else
          d = FORM::INSIDE ? e * (row_a + w * row_b) : laparoflow::pair_gradient(e, w, row_a, row_b);
      } else {
        const Vec<T> counted = counted_logit<T, FORM>(logit, w, T(kNoPair));
        d = exp_above<T>(counted, lse) * alpha;
        if (chunk.alpha) d += exp_above<T>(counted, splat<T>(chunk.lse[j])) * chunk.alpha[j];
        if constexpr (FORM::WEIGHTED) {
          const Vec<T> weighted = positive_logit<T>(logit, pair, T(kNoPair));
          const auto side = [&](Vec<T> from_lse, Vec<T> from_positive, Vec<T> a, Vec<T> b) {
            return inside_gradient<T>(exp_above<T>(counted, from_lse), exp_above<T>(weighted, from_positive), a, b);
          };
          if (FORM::INSIDE) {
            d = side(lse, positive, alpha, beta);
            if (chunk.alpha)
              d += side(splat<T>(chunk.lse[j]), splat<T>(chunk.positive[j]), splat<T>(chunk.alpha[j]),
                        splat<T>(chunk.beta[j]));
          } else {
            d += w * (chunk.alpha ? beta + chunk.beta[j] : beta);
          }
        }
      }
      total += d;
      store<T>(at, d);
    }
    kahan_add<T>(block.ds + lane, block.lost[kSumA] + lane, total);
  }
}

// Pair weights alone, with their row sums: for sum_j w_ij v_j.
template <class T, FlowKernel KERNEL>
void weight_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, T* w) {
  for (int lane = 0; lane < kRows; lane += kLanes<T>) {
    Vec<T> total{};
    for (int64_t j = 0; j < chunk.keys; ++j) {
      const auto pair = weight_of<T, KERNEL>(
          flow_distance2(block, lane, chunk.flow + j * chunk.channels, chunk.channels, chunk.inv_bandwidth2));
      total += pair.value;
      store<T>(w + j * kRows + lane, pair.value);
    }
    kahan_add<T>(block.sums[kSumW] + lane, block.lost[kSumW] + lane, total);
  }
}

}  // namespace
