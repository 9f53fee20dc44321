// Vectors of the compiler (GCC and Clang vector extensions) and the few functions that pair sweeps need.
//
// Included by one translation unit per instruction set, inside that unit's target pragma and after the macro
// LF_VECTOR_BYTES; everything has internal linkage, so that no function of one instruction set leaks into another.
#pragma once

#include <cstdint>
#include <utility>

namespace {

template <class T>
struct VecTraits;

#define LF_DEFINE_VECTOR(T, Int, NAME)                                                            \
  typedef T NAME __attribute__((vector_size(LF_VECTOR_BYTES)));                                   \
  typedef T NAME##u __attribute__((vector_size(LF_VECTOR_BYTES), aligned(sizeof(T)), may_alias)); \
  typedef Int NAME##i __attribute__((vector_size(LF_VECTOR_BYTES)));                              \
  template <>                                                                                     \
  struct VecTraits<T> {                                                                           \
    using V = NAME;                                                                               \
    using Unaligned = NAME##u;                                                                    \
    using I = NAME##i;                                                                            \
    static constexpr int size = LF_VECTOR_BYTES / sizeof(T);                                      \
  };
LF_DEFINE_VECTOR(float, int32_t, VecFloat)
LF_DEFINE_VECTOR(double, int64_t, VecDouble)
#undef LF_DEFINE_VECTOR

template <class T>
using Vec = typename VecTraits<T>::V;
template <class T>
using VecInt = typename VecTraits<T>::I;
template <class T>
constexpr int kLanes = VecTraits<T>::size;

#define LF_INLINE inline __attribute__((always_inline))

template <class T>
LF_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VecTraits<T>::Unaligned*>(p);
}
template <class T>
LF_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VecTraits<T>::Unaligned*>(p) = v;
}
template <class T>
LF_INLINE Vec<T> splat(T x) {
  return Vec<T>{} + x;
}
template <class V>
LF_INLINE V vmax(V a, V b) {
  return a > b ? a : b;
}
template <class V>
LF_INLINE V vmin(V a, V b) {
  return a < b ? a : b;
}

template <class T>
LF_INLINE T horizontal_sum(Vec<T> v) {
  T total = 0;
  for (int l = 0; l < kLanes<T>; ++l) total += v[l];
  return total;
}

// The sums of four vectors, in lanes 0, 1, 2, 3 times kLanes / 4: adding halves and then quarters of two vectors at a time
// takes a third of the steps of four single sums.
template <class T, size_t... L>
LF_INLINE void horizontal_sums(const Vec<T>* v, T* sums, std::index_sequence<L...>) {
  constexpr int n = kLanes<T>, h = n / 2, q = n / 4;
  const auto halves = [](Vec<T> a, Vec<T> b) {
    return __builtin_shufflevector(a, b, (int(L) < h ? int(L) : n + int(L) - h)...) +
           __builtin_shufflevector(a, b, (int(L) < h ? h + int(L) : n + int(L))...);
  };
  const Vec<T> ab = halves(v[0], v[1]), cd = halves(v[2], v[3]);
  Vec<T> x = __builtin_shufflevector(ab, cd, ((int(L) < h ? 0 : n) + (int(L) % h) / q * h + int(L) % q)...) +
             __builtin_shufflevector(ab, cd, ((int(L) < h ? 0 : n) + (int(L) % h) / q * h + q + int(L) % q)...);
  for (int k = 0; k < 4; ++k) {
    T total = x[k * q];
    for (int l = 1; l < q; ++l) total += x[k * q + l];
    sums[k] = total;
  }
}
template <class T>
LF_INLINE void horizontal_sums(const Vec<T>* v, T* sums) {
  if constexpr (kLanes<T> >= 4) {
    horizontal_sums<T>(v, sums, std::make_index_sequence<kLanes<T>>{});
  } else {
    for (int k = 0; k < 4; ++k) sums[k] = horizontal_sum<T>(v[k]);
  }
}

template <class T>
LF_INLINE Vec<T> vsqrt(Vec<T> v) {
  Vec<T> r;
  for (int l = 0; l < kLanes<T>; ++l) r[l] = sizeof(T) == 4 ? __builtin_sqrtf(v[l]) : __builtin_sqrt(v[l]);
  return r;
}

// 2^x for x <= 127 (1023); 0 below -126 (-1022): the polynomial is the relative minimax fit of 2^f on [-1/2, 1/2]
// (float: degree 6, error 2e-9; double: the Taylor series, error 4e-18), the power of two goes into the exponent bits.
LF_INLINE Vec<float> exp2_vec(Vec<float> x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds x to an integer held in the low mantissa bits
  Vec<float> shifted = x + magic;
  Vec<float> f = x - (shifted - magic);
  Vec<float> p = splat<float>(0x1.41d332p-13f);
  p = p * f + 0x1.5f456ap-10f;
  p = p * f + 0x1.3b2dbcp-7f;
  p = p * f + 0x1.c6aed4p-5f;
  p = p * f + 0x1.ebfbdap-3f;
  p = p * f + 0x1.62e430p-1f;
  p = p * f + 1.0f;
  Vec<float> r = (Vec<float>)((VecInt<float>)p + ((VecInt<float>)shifted << 23));
  return x < -126.0f ? splat<float>(0.0f) : r;
}
LF_INLINE Vec<double> exp2_vec(Vec<double> x) {
  const double magic = 6755399441055744.0;  // 1.5 * 2^52
  Vec<double> shifted = x + magic;
  Vec<double> f = (x - (shifted - magic)) * 0.693147180559945309417;
  Vec<double> p = splat<double>(1.0 / 6227020800.0);
  constexpr double inverse_factorial[13] = {
      1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,      1.0 / 720,
      1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600};
  for (int k = 12; k >= 0; --k) p = p * f + inverse_factorial[k];
  Vec<double> r = (Vec<double>)((VecInt<double>)p + ((VecInt<double>)shifted << 52));
  return x < -1022.0 ? splat<double>(0.0) : r;
}

// ln x for x >= 1: ln(2^e m) = e ln 2 + 2 atanh((m - 1) / (m + 1)), m in [sqrt(1/2), sqrt(2))
template <class T>
LF_INLINE Vec<T> log_vec(Vec<T> x) {
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
  constexpr int terms = sizeof(T) == 4 ? 6 : 12;
  using I = VecInt<T>;
  const Vec<T> one = splat<T>(T(1));
  I bits = (I)x;
  I offset = (I)splat<T>(T(0.70710678118654752440));
  I e = (bits - offset) >> mantissa;
  Vec<T> m = (Vec<T>)(bits - (e << mantissa));
  Vec<T> ef;
  for (int l = 0; l < kLanes<T>; ++l) ef[l] = static_cast<T>(e[l]);
  Vec<T> u = (m - one) / (m + one);
  Vec<T> u2 = u * u;
  Vec<T> p = splat<T>(T(1) / (2 * terms - 1));
  for (int k = terms - 2; k >= 0; --k) p = p * u2 + T(1) / (2 * k + 1);
  return ef * T(0.693147180559945309417) + 2 * u * p;
}

}  // namespace
