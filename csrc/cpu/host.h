// Between ATen and the engine: masks removed by compaction, blocks of rows planned, threads and their scratch.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "engine.h"

namespace laparoflow::cpu {

using at::Tensor;

// The arguments that every pair operator shares, in the order of its schema.
struct PairArgs {
  Tensor query, key, query_flow, key_flow, temperature, inv_bandwidth, query_offsets, key_offsets;
  std::optional<Tensor> query_mask, key_mask;
  std::string flow_kernel, positives, negatives, scope;
  bool symmetric;
};

// One side after compaction: only the pixels that its mask keeps.
struct Side {
  Tensor data;                   // [T, dim], contiguous
  Tensor flow;                   // [T, F]
  std::vector<int64_t> offsets;  // [B + 1]
  std::optional<Tensor> kept;    // [T] original index of each pixel; empty when nothing was masked
  int64_t total;                 // pixels before compaction

  Tensor gather(const Tensor& x) const { return kept ? x.index_select(-1, *kept) : x; }
  // rows or columns back to their places; the places of masked pixels keep `out`'s values
  void scatter_last(Tensor out, const Tensor& x) const { kept ? (void)out.index_copy_(-1, *kept, x) : (void)out.copy_(x); }
  void scatter_first(Tensor out, const Tensor& x) const { kept ? (void)out.index_copy_(0, *kept, x) : (void)out.copy_(x); }
};

Side make_side(const char* name, const Tensor& data, const Tensor& flow, const Tensor& offsets,
               const std::optional<Tensor>& mask, at::ScalarType accumulator);

bool all_finite(const Tensor& x);      // [T, F] float or double, contiguous
double largest_norm(const Tensor& x);  // of the rows of [T, D], contiguous; infinite or NaN when an entry is

FlowKernel parse_flow_kernel(const std::string& name);
Element element_of(at::ScalarType type);

template <class T>
const Engine<T>& engine();
const char* engine_name();
bool has_native_bf16();  // and the AVX-512 engine is in use

// Runs work(item, thread) for items [0, count) on torch's threads, taken one by one so that ragged items balance.
template <class Work>
void parallel_items(int64_t count, int64_t threads, const Work& work) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread)
      for (int64_t item = next++; item < count; item = next++) work(item, thread);
  });
}

inline int64_t thread_count(int64_t items) { return std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), items)); }

// Uninitialised scratch of each thread, aligned to cache lines.
template <class T>
class ScratchPool {
 public:
  ScratchPool(int64_t threads, int64_t size)
      : size_((size + 15) / 16 * 16), tensor_(at::empty({threads * size_}, at::CppTypeToScalarType<T>::value)) {}
  T* of(int64_t thread) { return tensor_.template data_ptr<T>() + thread * size_; }

 private:
  int64_t size_;
  Tensor tensor_;
};

}  // namespace laparoflow::cpu
