// What the host code asks of an instruction set: one block of query rows at a time, all keys resident in the cache.
//
// Plain data and function pointers only, so that code compiled for a newer instruction set stays in its own unit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../pair_math.h"

namespace laparoflow::cpu {

constexpr int kRows = 64;   // query rows of a block, along the vector lanes
constexpr int kChunk = 48;  // keys of a chunk: its products stay in the first-level cache
constexpr int kMaxFlowChannels = 8;
constexpr int kPad = 16;  // row lengths of scratch matrices are multiples of this

// Inside: positive sums below this are made again in the guarded form, as they may have lost terms.
template <class T>
constexpr T kLeastPositive = sizeof(T) == 4 ? T(0x1p-80) : T(0x1p-900);

enum class Element : int { kFloat, kDouble, kBFloat16, kHalf };

inline int64_t padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// The packed problem; masked pixels have been removed. T: accumulator type (float or double).
template <class T>
struct Pairs {
  const void* query;  // [Tq, dim] of `element`, row-major
  const void* key;    // [Tk, dim]
  Element element;
  int64_t dim;
  const T* query_flow;                     // [Tq, channels]
  const T* key_flow;                       // [Tk, channels]
  const int64_t *query_group, *key_group;  // [Tq], [Tk] or null: pairs of equal groups are left out
  int channels;
  double inv_temperature;
  FlowKernel flow_kernel;
  bool inside, dissimilar;
  bool native_bf16;  // the processor has AVX512_BF16
  bool guarded;      // logits may be large: subtract maxima
  int64_t stored;    // for how many keys the fused form keeps both pair terms of a block
  double upstream;   // gradient of given statistics: what upstream gradients are multiplied by
  double centre;     // gradient of given statistics: what dtemperature takes from every q . k, whose errors weigh less then
};

class Interrupt;

// A block's turn at the sums over queries that it shares with others: it adds at a key when the block before it has.
struct Turn {
  const int64_t* before = nullptr;  // the key that the block before has come to; null where there is none
  int64_t* reached = nullptr;
  Interrupt* interrupt = nullptr;
};
void wait_for_turn(const Turn& turn, int64_t key);

// Rows [row, row + rows) of one frame against keys [key_begin, key_end), positives among [positive_begin, positive_end);
// `queries` rows in all share those keys.
template <class T>
struct BlockTask {
  int64_t row, rows, key_begin, key_end, positive_begin, positive_end;
  T inv_bandwidth2;
  int64_t queries;
  Turn turn = {};
};

// Per-pixel results of one direction, each [T]: log-sum-exp, weight sum, positive, sum of w ln w.
template <class T>
struct Stats {
  T *lse, *weight_sum, *positive, *weight_log_sum;
};

// Gradient of given statistics of one direction: dL/dlse and dL/dpositive, per pixel.
template <class T>
struct StatsGrad {
  const T *lse, *weight_sum, *positive;  // the statistics
  const T *dlse, *dpositive;
};

template <class T>
struct Gradients {
  T* dquery;             // [Tq, dim], written; null when not needed
  T* dkey;               // [Tk, padded(dim)], a share, added to in turn; null when not needed
  double* dtemperature;  // this block's part of sum_ij dS_ij (q_i . k_j - centre); null when not needed
};

// What a block is asked for. Largest logits and positive exponents, of rows and, where not null, a share of the columns'.
template <class T>
struct Maxima {
  T *row, *row_positive, *column, *column_positive;
};

// Statistics of the rows and, where not null, a share of the columns' sums [4, columns]; guarded: with the maxima.
template <class T>
struct Statistics {
  Maxima<T> maxima;
  Stats<T> stats;
  double* column_sums;
  int64_t columns;
};

// Statistics and the gradient of the summed loss, in one sweep.
template <class T>
struct Fused {
  Stats<T> stats;
  Gradients<T> gradients;
};

// The gradient of given statistics; columns null for one direction.
template <class T>
struct Gradient {
  StatsGrad<T> rows;
  const StatsGrad<T>* columns;
  Gradients<T> gradients;
};

// sums[row, :] = sum_j w_ij v_j for values [Tk, dim] in `key`, and the weight sums.
template <class T>
struct WeightedSum {
  T *sums, *weight_sum;
};

template <class T>
struct Engine {
  // False where the inside form needs the guarded path, as its positive sums underflow.
  template <class Job>
  using Run = bool (*)(const Pairs<T>&, const BlockTask<T>&, T* scratch, const Job&);

  int64_t (*scratch_size)(const Pairs<T>&);  // of one thread, in T
  Run<Maxima<T>> maxima;                     // guarded form, first pass
  Run<Statistics<T>> statistics;
  Run<Fused<T>> fused;
  Run<Gradient<T>> gradient;
  Run<WeightedSum<T>> weighted_sum;
};

// Defined by the unit of each instruction set, those other than the portable one on x86 alone.
template <class T>
const Engine<T>* avx512_engine();
template <class T>
const Engine<T>* avx2_engine();
template <class T>
const Engine<T>* portable_engine();

}  // namespace laparoflow::cpu
