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
#include "statistics.h"
#include "vec.h"

namespace {

using laparoflow::FlowKernel;
using laparoflow::cpu::kRows;

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

// The summands of a pair; `a` and `b` are what its gradient is made of.
template <class T>
struct PairTerms {
  Vec<T> sums[kSums];
  Vec<T> a, b;
};

// The terms of a pair from its logit, natural where guarded, else in base 2; guarded, with the maxima that are subtracted.
template <class T, class FORM, bool GUARDED>
LF_INLINE PairTerms<T> terms_of(Vec<T> logit, laparoflow::PairWeight<Vec<T>> pair, Vec<T> max, Vec<T> max_positive) {
  PairTerms<T> t = {};
  const Vec<T> w = pair.value;
  const Vec<T> e = GUARDED ? exp_above<T>(counted_logit<T, FORM>(logit, w, T(kNoPair)), max) : exp2_vec(logit);
  t.a = t.sums[kSumA] = e;
  if constexpr (FORM::WEIGHTED) {
    t.b = FORM::INSIDE && GUARDED ? exp_above<T>(positive_logit<T>(logit, pair, T(kNoPair)), max_positive) : w;
    if (FORM::DISSIMILAR && !GUARDED) t.sums[kSumA] = e * (T(1) - w);
    t.sums[kSumW] = w;
    t.sums[kSumPositive] = !FORM::INSIDE ? w * logit : GUARDED ? t.b : w * e;
    if (FORM::KERNEL != FlowKernel::kTophat) t.sums[kSumWLogW] = w > T(0) ? w * pair.log2 : splat<T>(T(0));
  }
  return t;
}

template <class FORM>
constexpr int kUsedSums = FORM::WEIGHTED ? kSums : 1;

// Row sums of the pair terms; STORE keeps a and b for the gradient. GUARDED subtracts the maxima.
template <class T, class FORM, bool STORE, bool GUARDED>
void row_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, const T* s, Scale<T> scale, T* a_out, T* b_out) {
  for (int lane = 0; lane < kRows; lane += kLanes<T>) {
    const Vec<T> m = load<T>(block.max_logit + lane), mp = load<T>(block.max_positive + lane);
    Vec<T> sums[kSums] = {};
    for (int64_t j = 0; j < chunk.keys; ++j) {
      const int64_t at = j * kRows + lane;
      const Vec<T> product = load<T>(s + at);
      laparoflow::PairWeight<Vec<T>> pair{};
      if constexpr (FORM::WEIGHTED) pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
      const PairTerms<T> terms = terms_of<T, FORM, GUARDED>(scale * product, pair, m, mp);
      for (int k = 0; k < kUsedSums<FORM>; ++k) sums[k] += terms.sums[k];
      if (STORE) store<T>(a_out + at, terms.a);
      if (STORE && FORM::WEIGHTED) store<T>(b_out + at, terms.b);
    }
    for (int k = 0; k < kUsedSums<FORM>; ++k) kahan_add<T>(block.sums[k] + lane, block.lost[k] + lane, sums[k]);
  }
}

// Row and column sums of the pair terms; one exp serves both where no maxima are subtracted.
template <class T, class FORM, bool GUARDED>
void row_column_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, const T* s, Scale<T> scale) {
  constexpr int groups = kRows / kLanes<T>;
  const bool full = block.rows == kRows;
  Vec<T> rows[kSums][groups] = {};
  for (int64_t j = 0; j < chunk.keys; ++j) {
    Vec<T> column[kSums] = {};
    for (int g = 0; g < groups; ++g) {
      const int lane = g * kLanes<T>;
      const Vec<T> product = load<T>(s + j * kRows + lane), logit = scale * product;
      laparoflow::PairWeight<Vec<T>> pair{};
      if constexpr (FORM::WEIGHTED) pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
      const Vec<T> m = load<T>(block.max_logit + lane), mp = load<T>(block.max_positive + lane);
      PairTerms<T> terms = terms_of<T, FORM, GUARDED>(logit, pair, m, mp);
      for (int k = 0; k < kUsedSums<FORM>; ++k) rows[k][g] += terms.sums[k];
      if constexpr (GUARDED)
        terms = terms_of<T, FORM, true>(logit, pair, splat<T>(chunk.column_max[j]), splat<T>(chunk.column_max_positive[j]));
      const Vec<T> live = load<T>(block.live + lane);
      for (int k = 0; k < kUsedSums<FORM>; ++k) column[k] += full ? terms.sums[k] : terms.sums[k] * live;
    }
    if constexpr (FORM::WEIGHTED) {
      T sums[kSums];
      horizontal_sums<T>(column, sums);
      for (int k = 0; k < kSums; ++k) chunk.column_sums[k][j] += sums[k];
    } else {
      chunk.column_sums[kSumA][j] += horizontal_sum<T>(column[kSumA]);
    }
  }
  for (int k = 0; k < kUsedSums<FORM>; ++k)
    for (int g = 0; g < groups; ++g) kahan_add<T>(block.sums[k] + g * kLanes<T>, block.lost[k] + g * kLanes<T>, rows[k][g]);
}

// dS of a pair without maxima, from e^s and its weight.
template <class T, class FORM>
LF_INLINE Vec<T> small_gradient(Vec<T> e, Vec<T> w, Vec<T> alpha, Vec<T> beta) {
  if constexpr (!FORM::WEIGHTED) return e * alpha;
  if (FORM::DISSIMILAR) alpha *= T(1) - w;
  return FORM::INSIDE ? e * (alpha + w * beta) : laparoflow::pair_gradient(e, w, alpha, beta);
}

// The same with maxima, from the counted term a and the positive term b (outside: the weight).
template <class T, class FORM>
LF_INLINE Vec<T> guarded_gradient(Vec<T> a, Vec<T> b, Vec<T> alpha, Vec<T> beta) {
  if constexpr (!FORM::WEIGHTED) return a * alpha;
  return FORM::INSIDE ? inside_gradient<T>(a, b, alpha, beta) : laparoflow::pair_gradient(a, b, alpha, beta);
}

// dS from the stored terms.
template <class T, class FORM, bool GUARDED>
void combine_sweep(const RowBlock<T>& block, int64_t keys, const T* a, const T* b, T* ds) {
  for (int lane = 0; lane < kRows; lane += kLanes<T>) {
    const Vec<T> alpha = load<T>(block.alpha + lane), beta = load<T>(block.beta + lane);
    for (int64_t at = lane; at < keys * kRows; at += kRows) {
      const Vec<T> term = load<T>(a + at), other = FORM::WEIGHTED ? load<T>(b + at) : Vec<T>{};
      store<T>(ds + at, GUARDED ? guarded_gradient<T, FORM>(term, other, alpha, beta)
                                : small_gradient<T, FORM>(term, other, alpha, beta));
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
      if (GUARDED) {
        const Vec<T> counted = counted_logit<T, FORM>(logit, pair.value, T(kNoPair));
        const auto side = [&](Vec<T> from, Vec<T> from_positive, Vec<T> a, Vec<T> b) {
          Vec<T> positive_term = pair.value;
          if (FORM::INSIDE) positive_term = exp_above<T>(positive_logit<T>(logit, pair, T(kNoPair)), from_positive);
          return guarded_gradient<T, FORM>(exp_above<T>(counted, from), positive_term, a, b);
        };
        d = side(lse, positive, alpha, beta);
        if (chunk.alpha)
          d += side(splat<T>(chunk.lse[j]), splat<T>(chunk.positive[j]), splat<T>(chunk.alpha[j]), splat<T>(chunk.beta[j]));
      } else {
        const Vec<T> a = chunk.alpha ? alpha + chunk.alpha[j] : alpha, b = chunk.alpha ? beta + chunk.beta[j] : beta;
        d = small_gradient<T, FORM>(exp2_vec(logit), pair.value, a, b);
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
