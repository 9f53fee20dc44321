// Partial statistics of one row (or column) over some of its pairs, and how they combine.
//
//   l  = sum n 2^(s - m)    W = sum w    a = sum w x, or sum w 2^(s - m_in) for the inside form
//   h  = sum w log2 w       m, m_in: maxima that the sums are relative to (0 when bounded / outside)
// with s = x * log2(e) / temperature and x = q . k. In memory: [slots][components][total], and
// components is 4 where both maxima are fixed, else 6.
#pragma once

#include "tiles.cuh"

namespace laparoflow::cuda {

constexpr int kMaxComponents = 6;

LAPAROFLOW_HOST_DEVICE int partial_components(const Problem& p) {
  return p.bounded && p.positives == Positives::kOutside ? 4 : kMaxComponents;
}

struct Partial {
  float l = 0.0f, W = 0.0f, a = 0.0f, h = 0.0f, m = kEmptyMaximum, m_in = kEmptyMaximum;

  LAPAROFLOW_DEVICE void merge(const Partial& other, bool bounded, bool inside) {
    if (bounded) {
      l += other.l;
    } else {
      const float top = DeviceMath::max(m, other.m);
      l = l * DeviceMath::exp2(m - top) + other.l * DeviceMath::exp2(other.m - top);
      m = top;
    }
    if (inside) {
      const float top = DeviceMath::max(m_in, other.m_in);
      a = a * DeviceMath::exp2(m_in - top) + other.a * DeviceMath::exp2(other.m_in - top);
      m_in = top;
    } else {
      a += other.a;
    }
    W += other.W;
    h += other.h;
  }

  LAPAROFLOW_DEVICE static Partial read(const float* from, std::int64_t step, int components) {
    Partial p;
    p.l = from[0];
    p.W = from[step];
    p.a = from[2 * step];
    p.h = from[3 * step];
    if (components == kMaxComponents) {
      p.m = from[4 * step];
      p.m_in = from[5 * step];
    }
    return p;
  }

  LAPAROFLOW_DEVICE void write(float* to, std::int64_t step, int components) const {
    to[0] = l;
    to[step] = W;
    to[2 * step] = a;
    to[3 * step] = h;
    if (components == kMaxComponents) {
      to[4 * step] = m;
      to[5 * step] = m_in;
    }
  }

  /// The partial held by the lane `lane_mask` away.
  LAPAROFLOW_DEVICE Partial across(int lane_mask, bool bounded, bool inside) const {
    Partial p;
    p.l = shuffle_xor(l, lane_mask);
    p.W = shuffle_xor(W, lane_mask);
    p.a = shuffle_xor(a, lane_mask);
    p.h = shuffle_xor(h, lane_mask);
    if (!bounded) p.m = shuffle_xor(m, lane_mask);
    if (inside) p.m_in = shuffle_xor(m_in, lane_mask);
    return p;
  }
};

}  // namespace laparoflow::cuda
