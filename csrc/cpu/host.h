// Between the dispatcher and the engine: masks removed by compaction, threads and their scratch.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <vector>

#include "../arguments.h"
#include "engine.h"
#include "interrupt.h"

namespace laparoflow::cpu {

template <class T>
constexpr ScalarType kAccumulator = sizeof(T) == 4 ? ScalarType::Float : ScalarType::Double;

template <class T>
void fill(const Tensor& x, T value) {
  std::fill_n(x.mutable_data_ptr<T>(), x.numel(), value);
}

// One side after compaction: only the pixels that its mask keeps.
struct Side {
  Tensor data;                               // [T, dim], contiguous
  Tensor flow;                               // [T, F]
  std::vector<int64_t> offsets;              // [B + 1]
  std::vector<int64_t> group;                // [T], or empty
  std::optional<std::vector<int64_t>> kept;  // [T] original index of each pixel; empty when nothing was masked
  int64_t total;                             // pixels before compaction

  // columns [rows, total] -> [rows, T]
  template <class T>
  Tensor gather(const Tensor& x) const {
    const Tensor from = row_major(x);
    if (!kept) return from;
    const int64_t rows = x.size(0), n = kept->size();
    const Tensor out = empty_on(x, {rows, n}, kAccumulator<T>);
    T* to = out.mutable_data_ptr<T>();
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < n; ++i) to[row * n + i] = from.const_data_ptr<T>()[row * total + (*kept)[i]];
    return out;
  }
  // columns [rows, T] back to their places in [rows, total]; the places of masked pixels keep `out`'s values
  template <class T>
  void scatter_columns(const Tensor& out, const Tensor& x) const {
    const int64_t n = kept->size();
    T* to = out.mutable_data_ptr<T>();
    const T* from = x.const_data_ptr<T>();
    for (int64_t row = 0; row * n < x.numel(); ++row)
      for (int64_t i = 0; i < n; ++i) to[row * total + (*kept)[i]] = from[row * n + i];
  }
  // rows [T, width] back to their places in [total, width] of zeros; [T, width] itself where nothing was masked
  Tensor scattered(const Tensor& x) const;
};

Side make_side(const char* name, const Tensor& data, const Tensor& flow, const Tensor& offsets, const OptionalTensor& mask,
               const OptionalTensor& group, ScalarType accumulator, int64_t longest);
void check_frames(const Side& query, const Side& key, const Tensor& inv_bandwidth);
Element element_of(ScalarType type);

// Both sides as the engine takes them.
template <class T>
Pairs<T> pairs_of(const Side& query, const Side& key) {
  Pairs<T> pairs = {};
  pairs.query = query.data.const_data_ptr();
  pairs.key = key.data.const_data_ptr();
  pairs.element = element_of(key.data.scalar_type());
  pairs.dim = key.data.size(1);
  pairs.query_flow = query.flow.template const_data_ptr<T>();
  pairs.key_flow = key.flow.template const_data_ptr<T>();
  pairs.channels = static_cast<int>(query.flow.size(1));
  return pairs;
}

// Blocks of query rows against the keys of their frame or, with `batch`, of all frames.
template <class T>
std::vector<BlockTask<T>> blocks_of(const Side& query, const Side& key, const Tensor& inv_bandwidth, bool batch) {
  const Tensor bandwidth = row_major(inv_bandwidth);
  std::vector<BlockTask<T>> blocks;
  for (size_t b = 0; b + 1 < query.offsets.size(); ++b)
    for (int64_t row = query.offsets[b]; row < query.offsets[b + 1]; row += kRows) {
      BlockTask<T> task;
      task.row = row;
      task.rows = std::min<int64_t>(kRows, query.offsets[b + 1] - row);
      task.positive_begin = key.offsets[b];
      task.positive_end = key.offsets[b + 1];
      task.key_begin = batch ? 0 : task.positive_begin;
      task.key_end = batch ? key.offsets.back() : task.positive_end;
      const T inverse = bandwidth.template const_data_ptr<T>()[b];
      task.inv_bandwidth2 = inverse * inverse;
      task.queries = batch ? query.offsets.back() : query.offsets[b + 1] - query.offsets[b];
      blocks.push_back(task);
    }
  return blocks;
}

double largest_norm(const Tensor& x);  // of the rows of [T, D], contiguous; infinite or NaN when an entry is

template <class T>
const Engine<T>& engine();
const char* engine_name();
bool has_native_bf16();  // and the AVX-512 engine is in use

// Runs work(item, thread, interrupt) for items [0, count) on torch's threads, taken one by one so that ragged items balance.
template <class Work>
void parallel_items(int64_t count, int64_t threads, const Work& work) {
  std::atomic<int64_t> next{0};
  Interrupt interrupt;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread)
      for (int64_t item = next++; item < count && !interrupt.seen(); item = next++) work(item, thread, interrupt);
  });
  interrupt.raise();
}

inline int64_t thread_count(int64_t items) {
  return std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), items));
}

// Uninitialised scratch of each thread, aligned to cache lines.
template <class T>
class ScratchPool {
 public:
  ScratchPool(const Tensor& like, int64_t threads, int64_t size)
      : size_((size + 15) / 16 * 16), tensor_(empty_on(like, {threads * size_}, kAccumulator<T>)) {}
  T* of(int64_t thread) { return tensor_.mutable_data_ptr<T>() + thread * size_; }

 private:
  int64_t size_;
  Tensor tensor_;
};

}  // namespace laparoflow::cpu
