// A pair problem laid out for the engine: both sides compacted, blocks of query rows planned, work shared out over threads,
// and the memory in which the gradients of the shares add up.
#pragma once

#include <cmath>
#include <tuple>

#include "host.h"

namespace laparoflow::cpu {

// The memory of a call beside its inputs and results is bounded: pair terms that all threads store, and shares.
constexpr int64_t kStoredBytes = int64_t(128) << 20, kShareBytes = int64_t(128) << 20;
constexpr int64_t kDeterministicGroups = 8;
// Up to here exp(+-s) and its sums are safe without subtracting maxima. In float32 they are so up to 40, but an lse above 32
// is rounded to 4e-6, and that is an error of the gradient where one key outweighs all others.
constexpr double kSmallLogit = 32.0, kSmallLogitDouble = 300.0;

template <class T>
class PairProblem {
 public:
  PairProblem(const PairArguments& args) : args_(args) {
    const ScalarType type = args.query.scalar_type();
    check(args.key.scalar_type() == type, "key: expected dtype ", name_of(type), " like query, got ",
          name_of(args.key.scalar_type()));
    check(args.query.dim() == 2 && args.key.dim() == 2 && args.key.size(1) == args.query.size(1) && args.query.size(1) > 0,
          "key: expected [Tk, D] with the D of query, got ", shape_of(args.key), " and ", shape_of(args.query));
    check(args.query_group.has_value() == args.key_group.has_value(),
          "key_group: expected where query_group is, and not else");
    query = make_side("query", args.query, args.query_flow, args.query_offsets, args.query_mask, args.query_group,
                      kAccumulator<T>, args.max_query);
    key = make_side("key", args.key, args.key_flow, args.key_offsets, args.key_mask, args.key_group, kAccumulator<T>,
                    args.max_key);
    check_frames(query, key, args.inv_bandwidth);
    check(args.temperature.numel() == 1, "temperature: expected one number, got ", shape_of(args.temperature));
    const double temperature = *args.temperature.const_data_ptr<T>();
    check(temperature > 0 && std::isfinite(temperature), "temperature: expected a finite number > 0, got ", temperature);
    pairs = pairs_of<T>(query, key);
    pairs.query_group = args.query_group ? query.group.data() : nullptr;
    pairs.key_group = args.key_group ? key.group.data() : nullptr;
    pairs.inv_temperature = 1 / temperature;
    pairs.flow_kernel = args.flow_kernel;
    pairs.native_bf16 = has_native_bf16();
    pairs.inside = args.positives == Positives::kInside;
    pairs.dissimilar = args.negatives == Negatives::kDissimilar;
    const double bound = largest_norm(query.data) * largest_norm(key.data) / temperature;
    finite = std::isfinite(bound);
    pairs.guarded = !(bound <= (sizeof(T) == 4 ? kSmallLogit : kSmallLogitDouble));
    blocks = blocks_of<T>(query, key, args.inv_bandwidth, args.scope == Scope::kBatch);
  }

  Tensor make_stats(int64_t pixels) const {
    const Tensor stats = empty_on(args_.query, {4, pixels}, kAccumulator<T>);
    const T nothing = -std::numeric_limits<T>::infinity();
    const T initial[4] = {nothing, 0, pairs.inside ? nothing : 0, 0};
    for (int64_t row = 0; row < 4; ++row) std::fill_n(stats.mutable_data_ptr<T>() + row * pixels, pixels, initial[row]);
    return stats;
  }

  // statistics of the pixels that a mask kept, at their places among all
  Tensor scattered_stats(const Side& side, const Tensor& stats) const {
    if (!side.kept) return stats;
    const Tensor all = make_stats(side.total);
    side.template scatter_columns<T>(all, stats);
    return all;
  }

  static Stats<T> rows_of(const Tensor& stats) {
    T* base = stats.mutable_data_ptr<T>();
    const int64_t n = stats.size(1);
    return {base, base + n, base + 2 * n, base + 3 * n};
  }

  int64_t rows() const { return query.offsets.back(); }
  int64_t columns() const { return key.offsets.back(); }
  // keys whose pair terms each thread stores
  int64_t stored() const {
    int64_t longest = 0;
    for (const BlockTask<T>& task : blocks) longest = std::max(longest, task.key_end - task.key_begin);
    return std::min<int64_t>(longest, kStoredBytes / thread_count(blocks.size()) / (2 * kRows * sizeof(T)));
  }

  const PairArguments& args_;
  Side query, key;
  Pairs<T> pairs;
  std::vector<BlockTask<T>> blocks;
  bool finite;
};

// The sums over blocks are made of shares: groups of consecutive blocks of about equal work, which add to their share in
// order. As many groups as threads, so that each thread has a share to itself and a run is repeated bit for bit with the
// same number of threads; deterministic: a fixed number of groups, so that it is with any. Fewer where shares of `bytes`
// each would take more than kShareBytes: then threads go through one group together, block behind block.
template <class T>
struct Shares {
  const PairProblem<T>& problem;
  const std::vector<BlockTask<T>>& blocks = problem.blocks;
  const int64_t threads = thread_count(blocks.size());
  ScratchPool<T> scratch{problem.args_.query, threads, engine<T>().scratch_size(problem.pairs)};
  std::vector<int64_t> edges;  // [count + 1] first block of each group
  int64_t count;

  Shares(const PairProblem<T>& of, int64_t bytes) : problem(of) {
    const int64_t n = blocks.size();
    count = problem.args_.deterministic ? std::max<int64_t>(1, std::min(kDeterministicGroups, n)) : threads;
    if (bytes > 0) count = std::min(count, 1 + kShareBytes / bytes);
    std::vector<double> work(n + 1, 0.0);  // before each block
    for (int64_t i = 0; i < n; ++i) work[i + 1] = work[i] + 1 + blocks[i].key_end - blocks[i].key_begin;
    for (int64_t group = 0; group <= count; ++group)
      edges.push_back(std::lower_bound(work.begin(), work.end(), work[n] * group / count) - work.begin());
    edges.back() = n;
  }

  // Runs an entry of the engine with job(block, share) on every block, until it says false: then that is returned. A thread
  // goes on with the group behind its own when that is done.
  template <class Entry, class Job>
  bool run(const Entry& entry, const Job& job) {
    std::atomic<bool> ok{true};
    std::vector<std::atomic<int64_t>> next(count);
    for (int64_t group = 0; group < count; ++group) next[group] = edges[group];
    std::vector<int64_t> reached(blocks.size(), -1);
    parallel_items(threads, threads, [&](int64_t first, int64_t thread, Interrupt& interrupt) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t group = (first * count / threads + i) % count;
        for (int64_t b = next[group]++; b < edges[group + 1] && !interrupt.seen(); b = next[group]++) {
          BlockTask<T> task = blocks[b];
          const bool follows = b > edges[group] && blocks[b - 1].key_begin == task.key_begin;
          task.turn = {follows ? &reached[b - 1] : nullptr, &reached[b], &interrupt};
          if (ok && !entry(problem.pairs, task, scratch.of(thread), job(b, group))) ok = false;
          __atomic_store_n(&reached[b], std::numeric_limits<int64_t>::max(), __ATOMIC_RELEASE);
        }
      }
    });
    return ok;
  }
};

// Gradients of all blocks: memory for the shares, and their sum.
template <class T>
class GradientSums {
 public:
  GradientSums(const PairProblem<T>& problem, const Shares<T>& shares, const Needs& need)
      : problem_(problem), need_(need), ld_(padded(problem.pairs.dim)) {
    const Tensor& like = problem.args_.query;
    if (need.query) dquery_ = empty_on(like, {problem.rows(), problem.pairs.dim}, kAccumulator<T>);
    for (int64_t share = 0; need.key && share < shares.count; ++share)
      shares_.push_back(empty_on(like, {problem.columns(), ld_}, kAccumulator<T>));
    torch::stable::parallel_for(0, shares_.size(), 1, [&](int64_t begin, int64_t end) {
      for (; begin < end; ++begin) fill(shares_[begin], T(0));
    });
    dtemperature_.assign(problem.blocks.size(), 0.0);
  }
  static int64_t bytes(const PairProblem<T>& problem, const Needs& need) {
    return need.key ? problem.columns() * padded(problem.pairs.dim) * sizeof(T) : 0;
  }
  Gradients<T> of(int64_t block, int64_t share) {
    return {need_.query ? dquery_.mutable_data_ptr<T>() : nullptr,
            need_.key ? shares_[share].mutable_data_ptr<T>() : nullptr, need_.temperature ? &dtemperature_[block] : nullptr};
  }
  // factor: what every gradient is multiplied by (1 / count of the mean); type: of dquery and dkey
  // moment: sum_ij dS_ij centre, which the blocks left out of dtemperature
  std::tuple<Tensor, Tensor, Tensor> sum(double factor, ScalarType type, double moment = 0) {
    const Tensor& like = problem_.args_.query;
    const double inv_temperature = problem_.pairs.inv_temperature;
    Tensor dquery = empty_on(like, {0}, type), dkey = dquery;
    if (need_.query) {
      T* x = dquery_.mutable_data_ptr<T>();
      for (int64_t i = 0; factor != 1.0 && i < dquery_.numel(); ++i) x[i] *= static_cast<T>(factor);
      dquery = finished(problem_.query, dquery_, type);
    }
    if (need_.key) dkey = finished(problem_.key, sum_of_shares(factor * inv_temperature), type);
    // sum_ij dS_ij s_ij = sum_i q_i . (sum_j dS_ij k_j) / t
    double total = moment;
    for (const double t : dtemperature_) total += t;
    total *= -inv_temperature * inv_temperature * factor;
    if (!problem_.finite) total = std::numeric_limits<double>::quiet_NaN();
    Tensor dtemperature = need_.temperature ? number(like, total) : empty_on(like, {0}, kAccumulator<T>);
    return {dquery, dkey, dtemperature};
  }

  static Tensor number(const Tensor& like, double value) {
    const Tensor x = empty_on(like, {}, kAccumulator<T>);
    fill(x, static_cast<T>(value));
    return x;
  }

 private:
  Tensor finished(const Side& side, const Tensor& x, ScalarType type) const {
    if (!problem_.finite) fill(x, std::numeric_limits<T>::quiet_NaN());
    return side.scattered(x.scalar_type() == type ? x : torch::stable::to(x, type));
  }
  // [columns, dim]: in the first share where its rows are not padded
  Tensor sum_of_shares(double factor) const {
    const int64_t columns = problem_.columns(), dim = problem_.pairs.dim;
    const Tensor out = ld_ == dim ? shares_[0] : empty_on(shares_[0], {columns, dim}, kAccumulator<T>);
    std::vector<const T*> bases;
    for (const Tensor& share : shares_) bases.push_back(share.const_data_ptr<T>());
    T* to = out.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, columns, std::max<int64_t>(1, (1 << 14) / ld_), [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        T* row = to + j * dim;
        if (ld_ != dim) std::copy_n(bases[0] + j * ld_, dim, row);
        for (size_t share = 1; share < bases.size(); ++share)
          for (int64_t d = 0; d < dim; ++d) row[d] += bases[share][j * ld_ + d];
        for (int64_t d = 0; d < dim; ++d) row[d] *= static_cast<T>(factor);
      }
    });
    return out;
  }

  const PairProblem<T>& problem_;
  const Needs& need_;
  int64_t ld_;
  Tensor dquery_;               // [rows, dim]
  std::vector<Tensor> shares_;  // [columns, ld] each
  std::vector<double> dtemperature_;
};

}  // namespace laparoflow::cpu
