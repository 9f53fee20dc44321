// A pair problem laid out for the engine: both sides compacted, blocks of query rows planned, work shared out over threads,
// and the memory in which the gradients of the shares add up.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "host.h"

namespace laparoflow::cpu {

constexpr int64_t kDeterministicGroups = 8;
constexpr double kSmallLogit = 40.0;  // exp(+-40) and its sums are safe in float32 without subtracting maxima
constexpr double kSmallLogitDouble = 300.0;

template <class T>
class PairProblem {
 public:
  PairProblem(const PairArgs& args) : args_(args) {
    const auto accumulator = at::CppTypeToScalarType<T>::value;
    TORCH_CHECK_TYPE(args.key.scalar_type() == args.query.scalar_type(), "key: expected dtype ", args.query.scalar_type(),
                     " like query, got ", args.key.scalar_type());
    TORCH_CHECK_VALUE(
        args.query.dim() == 2 && args.key.dim() == 2 && args.key.size(1) == args.query.size(1) && args.query.size(1) > 0,
        "key: expected [Tk, D] with the D of query, got ", args.key.sizes(), " and ", args.query.sizes());
    query = make_side("query", args.query, args.query_flow, args.query_offsets, args.query_mask, accumulator);
    key = make_side("key", args.key, args.key_flow, args.key_offsets, args.key_mask, accumulator);
    TORCH_CHECK_VALUE(
        query.offsets.size() == key.offsets.size() && args.inv_bandwidth.numel() + 1 == int64_t(query.offsets.size()),
        "expected the same number of frames in query, key and bandwidth");
    TORCH_CHECK_VALUE(query.flow.size(1) == key.flow.size(1), "key_flow: expected F=", query.flow.size(1), ", got ",
                      key.flow.size(1));
    const double temperature = args.temperature.item<double>();
    TORCH_CHECK_VALUE(temperature > 0 && std::isfinite(temperature), "temperature: expected a finite number > 0, got ",
                      temperature);
    pairs.query = query.data.const_data_ptr();
    pairs.key = key.data.const_data_ptr();
    pairs.element = element_of(args.query.scalar_type());
    pairs.dim = args.query.size(1);
    pairs.query_flow = query.flow.template const_data_ptr<T>();
    pairs.key_flow = key.flow.template const_data_ptr<T>();
    pairs.channels = static_cast<int>(query.flow.size(1));
    pairs.inv_temperature = 1 / temperature;
    pairs.flow_kernel = parse_flow_kernel(args.flow_kernel);
    pairs.native_bf16 = has_native_bf16();
    pairs.inside = args.positives == "inside";
    pairs.dissimilar = args.negatives == "dissimilar";
    const double bound = largest_norm(query.data) * largest_norm(key.data) / temperature;
    finite = std::isfinite(bound);
    pairs.guarded = !(bound <= (sizeof(T) == 4 ? kSmallLogit : kSmallLogitDouble));
    plan_blocks();
  }

  Tensor make_stats(int64_t pixels) const {
    Tensor stats = at::empty({4, pixels}, at::CppTypeToScalarType<T>::value);
    const T nothing = -std::numeric_limits<T>::infinity();
    const T initial[4] = {nothing, 0, pairs.inside ? nothing : 0, 0};
    for (int64_t row = 0; row < 4; ++row) std::fill_n(stats.data_ptr<T>() + row * pixels, pixels, initial[row]);
    return stats;
  }

  static Stats<T> rows_of(const Tensor& stats) {
    T* base = stats.data_ptr<T>();
    const int64_t n = stats.size(1);
    return {base, base + n, base + 2 * n, base + 3 * n};
  }

  // queries that a key of the frame meets
  int64_t queries_of(size_t frame) const {
    return args_.scope == "batch" ? query.offsets.back() : query.offsets[frame + 1] - query.offsets[frame];
  }
  int64_t rows() const { return query.offsets.back(); }
  int64_t columns() const { return key.offsets.back(); }
  int64_t scratch(bool stored) const { return engine<T>().scratch_size(pairs.dim, longest_keys_, stored); }

  const PairArgs& args_;
  Side query, key;
  Pairs<T> pairs;
  std::vector<BlockTask<T>> blocks;
  bool finite;

 private:
  void plan_blocks() {
    const Tensor bandwidth = args_.inv_bandwidth.contiguous();
    const T* inv_bandwidth = bandwidth.const_data_ptr<T>();
    const bool batch = args_.scope == "batch";
    for (size_t b = 0; b + 1 < query.offsets.size(); ++b)
      for (int64_t row = query.offsets[b]; row < query.offsets[b + 1]; row += kRows) {
        BlockTask<T> task;
        task.row = row;
        task.rows = std::min<int64_t>(kRows, query.offsets[b + 1] - row);
        task.positive_begin = key.offsets[b];
        task.positive_end = key.offsets[b + 1];
        task.key_begin = batch ? 0 : task.positive_begin;
        task.key_end = batch ? key.offsets.back() : task.positive_end;
        task.inv_bandwidth2 = inv_bandwidth[b] * inv_bandwidth[b];
        task.queries = queries_of(b);
        longest_keys_ = std::max(longest_keys_, task.key_end - task.key_begin);
        blocks.push_back(task);
      }
  }

  int64_t longest_keys_ = 0;
};

// The sums over blocks are made of shares: groups of consecutive blocks of about equal work, each done by one thread in
// order. As many groups as threads, so that a run is repeated bit for bit with the same number of threads; deterministic: a
// fixed number of groups, so that it is with any.
struct Shares {
  std::vector<int64_t> edges;  // [count + 1] first block of each group
  int64_t count, threads;

  template <class Block>
  explicit Shares(const std::vector<Block>& blocks) {
    const int64_t n = blocks.size();
    const bool deterministic = at::globalContext().deterministicAlgorithms();
    count = deterministic ? std::max<int64_t>(1, std::min(kDeterministicGroups, n)) : thread_count(n);
    threads = thread_count(count);
    std::vector<double> work(n + 1, 0.0);  // before each block
    for (int64_t i = 0; i < n; ++i) work[i + 1] = work[i] + 1 + blocks[i].key_end - blocks[i].key_begin;
    for (int64_t group = 0; group <= count; ++group)
      edges.push_back(std::lower_bound(work.begin(), work.end(), work[n] * group / count) - work.begin());
    edges.back() = n;
  }
  int64_t blocks() const { return edges.back(); }
  // work(block, share, thread)
  template <class Work>
  void run(const Work& work) const {
    parallel_items(count, threads, [&](int64_t group, int64_t thread) {
      for (int64_t block = edges[group]; block < edges[group + 1]; ++block) work(block, group, thread);
    });
  }
};

// Gradients of all blocks: memory for the shares, and their sum.
template <class T>
class GradientSums {
 public:
  GradientSums(const PairProblem<T>& problem, const Shares& shares, bool need_query, bool need_key, bool need_temperature)
      : problem_(problem),
        need_query_(need_query),
        need_key_(need_key),
        need_temperature_(need_temperature),
        ld_(padded(problem.pairs.dim)) {
    const auto type = at::CppTypeToScalarType<T>::value;
    if (need_query) dquery_ = at::empty({problem.rows(), problem.pairs.dim}, type);
    if (need_key) dkey_ = at::zeros({shares.count, problem.columns(), ld_}, type);
    dtemperature_.assign(shares.blocks(), 0.0);
  }
  Gradients<T> of(int64_t block, int64_t share) {
    return {need_query_ ? dquery_.data_ptr<T>() : nullptr,
            need_key_ ? dkey_.data_ptr<T>() + share * problem_.columns() * ld_ : nullptr,
            need_temperature_ ? &dtemperature_[block] : nullptr};
  }
  // factor: what every gradient is multiplied by (1 / count of the mean); type: of dquery and dkey
  std::tuple<Tensor, Tensor, Tensor> sum(double factor, at::ScalarType type) {
    const auto accumulator = at::CppTypeToScalarType<T>::value;
    const int64_t dim = problem_.pairs.dim;
    const double inv_temperature = problem_.pairs.inv_temperature;
    Tensor dquery = at::empty({0}, type), dkey = at::empty({0}, type), dtemperature = at::empty({0}, accumulator);
    if (need_query_) {
      if (factor != 1.0) dquery_.mul_(factor);
      dquery = finished(problem_.query, dquery_, type);
    }
    if (need_key_) {
      add_shares(factor * inv_temperature);
      dkey = finished(problem_.key, dkey_[0].narrow(1, 0, dim), type);
    }
    if (need_temperature_) {
      double total = 0;
      for (double t : dtemperature_) total += t;
      // sum_ij dS_ij s_ij = sum_i q_i . (sum_j dS_ij k_j) / t
      dtemperature = at::full({}, -total * inv_temperature * inv_temperature * factor, accumulator);
    }
    if (!problem_.finite)
      for (Tensor* t : {&dquery, &dkey, &dtemperature}) t->fill_(std::numeric_limits<double>::quiet_NaN());
    return {dquery, dkey, dtemperature};
  }

 private:
  static Tensor finished(const Side& side, const Tensor& x, at::ScalarType type) {
    if (!side.kept) return x.to(type).contiguous();
    Tensor out = at::zeros({side.total, x.size(1)}, x.options().dtype(type));
    side.scatter_first(out, x.to(type));
    return out;
  }
  void add_shares(double factor) {
    const int64_t size = dkey_.size(1) * dkey_.size(2), shares = dkey_.size(0);
    T* base = dkey_.data_ptr<T>();
    at::parallel_for(0, size, 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t share = 1; share < shares; ++share)
        for (int64_t i = begin; i < end; ++i) base[i] += base[share * size + i];
      for (int64_t i = begin; i < end; ++i) base[i] *= static_cast<T>(factor);
    });
  }

  const PairProblem<T>& problem_;
  bool need_query_, need_key_, need_temperature_;
  int64_t ld_;
  Tensor dquery_, dkey_;
  std::vector<double> dtemperature_;
};

}  // namespace laparoflow::cpu
