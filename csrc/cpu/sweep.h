// Sweeps over a chunk of pairs (keys x kRows queries): products in, pair terms, statistics or gradients out.
//
// With s2 = log2(e) q.k / t (logits in base 2), w = phi(|f - g| / bandwidth) and n = 1 or 1 - w, a pair has two terms
//     n 2^(s2 - m_i)                               the softmax term; m_i = 0 where every |s| is small, else the row's
//     maximum w s2 (outside)   or   w 2^(s2 - mp_i) (inside)   the positive term
// whose row sums give every statistic. The gradient needs a = 2^(s2 - m_i) and b = w (outside, or inside with m_i = 0):
//     outside: dS = alpha_i n a + beta_i b      inside: dS = a (alpha_i n + beta_i b)
// The guarded form stores n a, and for inside the positive term itself, so that dS = alpha_i a + beta_i b.
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

// log2(e) / t in two parts: its rounding would be the same for every pair, and add up in the gradient of the temperature.
template <class T>
struct Scale {
  T high, low;
  explicit Scale(double x) : high(static_cast<T>(x)), low(static_cast<T>(x - static_cast<double>(high))) {}
  LF_INLINE Vec<T> operator*(Vec<T> s) const { return s * high + s * low; }
  // s log2(e) / t - x, rounded once: near x the difference is small while both terms are large
  LF_INLINE Vec<T> minus(Vec<T> s, Vec<T> x, Vec<T> x_low) const { return (s * high - x) + (s * low - x_low); }
};

// One block of query rows as the sweeps see it: [.., kRows] arrays, rows along the lanes.
template <class T>
struct RowBlock {
  T flow[laparoflow::cpu::kMaxFlowChannels][kRows];
  int64_t rows;           // how many of the kRows there are
  T live[kRows];          // 1 for those, 0 for padding
  T max_logit[kRows];     // m_i, base 2
  T max_positive[kRows];  // mp_i, base 2
  T sums[kSums][kRows];   // row sums, Kahan-compensated over chunks
  T lost[kSums][kRows];
  T alpha[kRows], beta[kRows];
  // gradient of given statistics, base 2: a = n 2^(s2 - lse2), b = w or w 2^(s2 - positive2)
  T lse2[kRows], positive2[kRows], lse2_low[kRows], positive2_low[kRows];  // in two parts
};

// Per-key arrays of one chunk; column statistics and coefficients are null when one direction is asked for.
template <class T>
struct KeyChunk {
  int64_t keys;
  const T* flow;  // [keys, F]
  int channels;
  T inv_bandwidth2;
  bool excludes;                                                        // some logits are kNoPair: those pairs count nowhere
  double* column_sums[kSums];                                           // [keys] each, + this block's share
  T *column_max, *column_max_positive;                                  // [keys]: running maxima of the guarded form, base 2
  const T *alpha, *beta, *lse2, *positive2, *lse2_low, *positive2_low;  // [keys] gradient coefficients of the columns
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
void maxima_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, const T* s, Scale<T> scale2) {
  for (int lane = 0; lane < kRows; lane += kLanes<T>) {
    Vec<T> m = load<T>(block.max_logit + lane), mp = load<T>(block.max_positive + lane);
    const Vec<T> lowest = splat<T>(T(-INFINITY)), live = load<T>(block.live + lane);
    for (int64_t j = 0; j < chunk.keys; ++j) {
      const Vec<T> product = load<T>(s + j * kRows + lane);
      Vec<T> s2 = scale2 * product, counted = s2, positive = lowest;
      if constexpr (FORM::WEIGHTED) {
        if (FORM::INSIDE || FORM::DISSIMILAR) {
          const auto pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
          if (FORM::DISSIMILAR) counted = pair.value < T(1) ? s2 : lowest;
          if (FORM::INSIDE) positive = laparoflow::inside_exponent<VectorMath<T>>(s2, pair, lowest);
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
void row_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, const T* s, Scale<T> scale2, T* a_out, T* b_out) {
  for (int lane = 0; lane < kRows; lane += kLanes<T>) {
    const Vec<T> m = load<T>(block.max_logit + lane), mp = load<T>(block.max_positive + lane);
    Vec<T> sum_a{}, sum_w{}, sum_p{}, sum_wlog{};
    for (int64_t j = 0; j < chunk.keys; ++j) {
      const int64_t at = j * kRows + lane;
      const Vec<T> product = load<T>(s + at), zero = splat<T>(T(0));
      Vec<T> s2 = scale2 * product;
      Vec<T> e = exp2_vec(GUARDED ? vmin(scale2.minus(product, m, zero), splat<T>(T(100))) : s2);
      Vec<T> counted = e;
      if constexpr (FORM::WEIGHTED) {
        const auto pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
        Vec<T> b = pair.value;
        if (FORM::INSIDE) {
          if (GUARDED) b = exp2_vec(pair.value > T(0) ? scale2.minus(product, mp, -pair.log2) : splat<T>(T(-1000000)));
          sum_p += GUARDED ? b : b * e;
        } else {
          sum_p += pair.value * s2;
        }
        sum_w += pair.value;
        if (FORM::KERNEL != FlowKernel::kTophat) sum_wlog += pair.value > T(0) ? pair.value * pair.log2 : splat<T>(T(0));
        if (FORM::DISSIMILAR) counted *= T(1) - pair.value;
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
void guarded_column_sweep(RowBlock<T>& block, const KeyChunk<T>& chunk, const T* s, Scale<T> scale2) {
  for (int64_t j = 0; j < chunk.keys; ++j) {
    Vec<T> total[kSums] = {};
    for (int lane = 0; lane < kRows; lane += kLanes<T>) {
      const Vec<T> live = load<T>(block.live + lane);
      const Vec<T> product = load<T>(s + j * kRows + lane), zero = splat<T>(T(0));
      Vec<T> s2 = scale2 * product;
      Vec<T> e = exp2_vec(vmin(scale2.minus(product, splat<T>(chunk.column_max[j]), zero), splat<T>(T(100))));
      if constexpr (FORM::WEIGHTED) {
        const auto pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
        Vec<T> b = FORM::INSIDE ? exp2_vec(pair.value > T(0)
                                               ? scale2.minus(product, splat<T>(chunk.column_max_positive[j]), -pair.log2)
                                               : splat<T>(T(-1000000)))
                                : pair.value * s2;
        total[kSumW] += pair.value * live;
        total[kSumPositive] += b * live;
        total[kSumWLogW] += pair.value > T(0) ? pair.value * pair.log2 * live : splat<T>(T(0));
        if (FORM::DISSIMILAR) e *= T(1) - pair.value;
      }
      total[kSumA] += e * live;
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
        if (GUARDED || !(FORM::INSIDE || FORM::DISSIMILAR))
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
//   small logits: (alpha_i + alpha_j) n e + (beta_i + beta_j) (w | w e), e = 2^s2, alpha and beta holding 2^-lse2 etc.
//   guarded:      alpha_i n 2^(s2 - lse2_i) + beta_i (w | w 2^(s2 - positive2_i)) + the same of the column
template <class T, class FORM, bool GUARDED>
void gradient_sweep(const RowBlock<T>& block, const KeyChunk<T>& chunk, T* s, Scale<T> scale2) {
  for (int lane = 0; lane < kRows; lane += kLanes<T>) {
    const Vec<T> alpha = load<T>(block.alpha + lane), beta = load<T>(block.beta + lane);
    const Vec<T> lse2 = load<T>(block.lse2 + lane), positive2 = load<T>(block.positive2 + lane);
    const Vec<T> lse2_low = load<T>(block.lse2_low + lane), positive2_low = load<T>(block.positive2_low + lane);
    const Vec<T> cap = splat<T>(T(120));
    for (int64_t j = 0; j < chunk.keys; ++j) {
      T* at = s + j * kRows + lane;
      const Vec<T> product = load<T>(at);
      Vec<T> d;
      Vec<T> w{}, log2w{};
      if constexpr (FORM::WEIGHTED) {
        const auto pair = chunk_weight<T, FORM::KERNEL>(block, lane, chunk, j, product);
        w = pair.value;
        log2w = pair.log2;
      }
      if (!GUARDED) {
        Vec<T> e = exp2_vec(scale2 * product);
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
        Vec<T> a = exp2_vec(vmin(scale2.minus(product, lse2, lse2_low), cap)) * alpha;
        if (chunk.alpha) {
          const Vec<T> x = scale2.minus(product, splat<T>(chunk.lse2[j]), splat<T>(chunk.lse2_low[j]));
          a += exp2_vec(vmin(x, cap)) * chunk.alpha[j];
        }
        d = FORM::DISSIMILAR && FORM::WEIGHTED ? a * (T(1) - w) : a;
        if constexpr (FORM::WEIGHTED) {
          const Vec<T> none = splat<T>(T(-1000000));
          Vec<T> b = FORM::INSIDE
                         ? exp2_vec(vmin(w > T(0) ? scale2.minus(product, positive2, positive2_low - log2w) : none, cap))
                         : w;
          d += b * beta;
          if (chunk.alpha) {
            if (FORM::INSIDE) {
              const Vec<T> x = scale2.minus(product, splat<T>(chunk.positive2[j]), chunk.positive2_low[j] - log2w);
              b = exp2_vec(vmin(w > T(0) ? x : none, cap));
            }
            d += b * chunk.beta[j];
          }
        }
      }
      store<T>(at, d);
    }
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
