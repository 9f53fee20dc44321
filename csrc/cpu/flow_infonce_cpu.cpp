// flow_infonce on CPU tensors: statistics, their gradient, and the reduced loss with its gradients in one sweep.
//
// Work is a list of blocks of kRows query rows; a thread holds one block's pairs at a time. Every row's results depend on
// its block alone; dkey and column sums are added up from shares.

#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "host.h"

namespace laparoflow::cpu {
namespace {

constexpr int64_t kDeterministicGroups = 8;
constexpr double kSmallLogit = 40.0;  // exp(+-40) and its sums are safe in float32 without subtracting maxima
constexpr double kSmallLogitDouble = 300.0;
constexpr double kSmallPositive = 50.0;

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
        task.queries = batch ? query.offsets.back() : query.offsets[b + 1] - query.offsets[b];
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

// Column statistics from the shares of sums over query rows.
template <class T>
void finish_columns(const PairProblem<T>& problem, const Tensor& sums, const Tensor& maxima, const Stats<T>& out) {
  const bool one_query = problem.rows() == 1 && !problem.pairs.inside && !problem.pairs.dissimilar;
  const int64_t n = problem.columns();
  const double ln2 = std::log(2.0);
  const Tensor total = sums.sum(0);
  const double* s = total.data_ptr<double>();
  const T* m = maxima.defined() ? maxima.data_ptr<T>() : nullptr;
  for (int64_t j = 0; j < n; ++j) {
    const double a = s[j], w = s[n + j], p = s[2 * n + j];
    out.lse[j] = static_cast<T>(a > 0 ? ln2 * ((m ? m[j] : 0) + std::log2(a)) : -INFINITY);
    out.weight_sum[j] = static_cast<T>(w);
    out.weight_log_sum[j] = static_cast<T>(ln2 * s[3 * n + j]);
    if (problem.pairs.inside)
      out.positive[j] = static_cast<T>(p > 0 && w > 0 ? ln2 * ((m ? m[n + j] : 0) + std::log2(p)) : -INFINITY);
    else
      out.positive[j] = static_cast<T>(w > 0 ? ln2 * p / w : 0);
    if (one_query && w > 0) out.lse[j] = out.positive[j];  // both are the one logit
  }
}

template <class T>
bool columns_underflow(const PairProblem<T>& problem, const Tensor& sums) {
  if (!problem.pairs.inside || problem.pairs.guarded) return false;
  const Tensor total = sums.sum(0);
  return ((total[1] > 0) & (total[2] < (sizeof(T) == 4 ? 0x1p-80 : 0x1p-900))).any().template item<bool>();
}

// One pass over the pairs (guarded: two): row statistics and, when symmetric, column statistics; false: needs the guard.
template <class T>
bool forward_pass(PairProblem<T>& problem, const Tensor& row_stats, const Tensor& column_stats) {
  const auto type = at::CppTypeToScalarType<T>::value;
  const bool columns = problem.args_.symmetric;
  const int64_t n = problem.columns();
  const Shares shares(problem.blocks);
  ScratchPool<T> scratch(shares.threads, problem.scratch(false));
  Tensor row_maxima, column_maxima;
  if (problem.pairs.guarded) {
    row_maxima = at::empty({2, problem.rows()}, type);
    if (columns) column_maxima = at::full({shares.threads, 2, n}, -std::numeric_limits<double>::infinity(), type);
    shares.run([&](int64_t block, int64_t, int64_t thread) {
      T* m = columns ? column_maxima.data_ptr<T>() + thread * 2 * n : nullptr;
      T* r = row_maxima.data_ptr<T>();
      engine<T>().maxima(problem.pairs, problem.blocks[block], scratch.of(thread), r, r + problem.rows(), m, m ? m + n : m);
    });
    if (columns) {
      column_maxima = column_maxima.amax(0);
      column_maxima.masked_fill_(column_maxima.isneginf(), 0);  // a column without pairs has nothing to subtract from
    }
  }
  Tensor sums;
  if (columns) sums = at::zeros({shares.count, 4, n}, at::kDouble);
  std::atomic<bool> ok{true};
  const Stats<T> out = PairProblem<T>::rows_of(row_stats);
  shares.run([&](int64_t block, int64_t share, int64_t thread) {
    const T* r = row_maxima.defined() ? row_maxima.const_data_ptr<T>() : nullptr;
    const T* m = column_maxima.defined() ? column_maxima.const_data_ptr<T>() : nullptr;
    ColumnSums column_sums;
    if (columns) {
      double* base = sums.data_ptr<double>() + share * 4 * n;
      column_sums = {base, base + n, base + 2 * n, base + 3 * n};
    }
    if (!engine<T>().statistics(problem.pairs, problem.blocks[block], scratch.of(thread), r, r ? r + problem.rows() : r, m,
                                m ? m + n : m, out, columns ? &column_sums : nullptr))
      ok = false;
  });
  if (!ok || (columns && columns_underflow(problem, sums))) return false;
  if (columns) finish_columns(problem, sums, column_maxima, PairProblem<T>::rows_of(column_stats));
  return true;
}

template <class T>
std::tuple<Tensor, Tensor> forward(const PairArgs& args) {
  PairProblem<T> problem(args);
  Tensor rows = problem.make_stats(problem.rows());
  Tensor columns = problem.make_stats(args.symmetric ? problem.columns() : 0);
  if (!problem.finite) {
    rows.fill_(std::numeric_limits<double>::quiet_NaN());
    columns.fill_(std::numeric_limits<double>::quiet_NaN());
  } else if (!forward_pass(problem, rows, columns)) {
    problem.pairs.guarded = true;
    forward_pass(problem, rows, columns);
  }
  if (problem.query.kept) {
    Tensor all = problem.make_stats(problem.query.total);
    problem.query.scatter_last(all, rows);
    rows = all;
  }
  if (args.symmetric && problem.key.kept) {
    Tensor all = problem.make_stats(problem.key.total);
    problem.key.scatter_last(all, columns);
    columns = all;
  }
  return {rows, columns};
}

template <class T>
StatsGrad<T> stats_grad(const Tensor& stats, const Tensor& grad) {
  const T *s = stats.const_data_ptr<T>(), *g = grad.const_data_ptr<T>();
  const int64_t n = stats.size(1);
  return {s, s + n, s + 2 * n, g, g + n};
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> backward(const PairArgs& args, const Tensor& row_stats, const Tensor& column_stats,
                                            const Tensor& row_grad, const Tensor& column_grad, bool need_query,
                                            bool need_key, bool need_temperature) {
  PairProblem<T> problem(args);
  const Tensor rows = problem.query.gather(row_stats).contiguous(), drows = problem.query.gather(row_grad).contiguous();
  Tensor columns, dcolumns;
  if (args.symmetric) {
    columns = problem.key.gather(column_stats).contiguous();
    dcolumns = problem.key.gather(column_grad).contiguous();
  }
  if (problem.pairs.inside && !problem.pairs.guarded)
    for (const Tensor& stats : {rows, columns})
      if (stats.defined() && stats.size(1) > 0)
        problem.pairs.guarded |=
            ((stats[1] > 0) & (stats[2].abs() > kSmallPositive) & stats[2].isfinite()).any().template item<bool>();
  const Shares shares(problem.blocks);
  ScratchPool<T> scratch(shares.threads, problem.scratch(false));
  GradientSums<T> sums(problem, shares, need_query, need_key, need_temperature);
  if (problem.finite) {
    const StatsGrad<T> row_side = stats_grad<T>(rows, drows);
    StatsGrad<T> column_side{};
    if (args.symmetric) column_side = stats_grad<T>(columns, dcolumns);
    shares.run([&](int64_t block, int64_t share, int64_t thread) {
      engine<T>().gradient(problem.pairs, problem.blocks[block], scratch.of(thread), row_side,
                           args.symmetric ? &column_side : nullptr, sums.of(block, share));
    });
  }
  return sums.sum(1.0, args.query.scalar_type());
}

template <class T>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fused(const PairArgs& args, bool mean, bool need_query, bool need_key,
                                                         bool need_temperature) {
  TORCH_CHECK_VALUE(!args.symmetric, "symmetric: the one-sweep form has one direction");
  PairProblem<T> problem(args);
  Tensor stats = problem.make_stats(problem.rows());
  const Stats<T> out = PairProblem<T>::rows_of(stats);
  const Shares shares(problem.blocks);
  ScratchPool<T> scratch(shares.threads, problem.scratch(true));
  std::optional<GradientSums<T>> sums;
  bool ok = false;
  while (!ok && problem.finite) {
    sums.emplace(problem, shares, need_query, need_key, need_temperature);
    std::atomic<bool> good{true};
    shares.run([&](int64_t block, int64_t share, int64_t thread) {
      if (good && !engine<T>().fused(problem.pairs, problem.blocks[block], scratch.of(thread), out, sums->of(block, share)))
        good = false;
    });
    ok = good;
    if (!ok) problem.pairs.guarded = true;
  }
  if (!problem.finite) {
    sums.emplace(problem, shares, need_query, need_key, need_temperature);
    stats.fill_(std::numeric_limits<double>::quiet_NaN());
  }
  double total = 0;
  int64_t valid = 0;
  for (int64_t i = 0; i < problem.rows(); ++i)
    if (out.weight_sum[i] > T(0) && out.lse[i] > T(-INFINITY))
      total += double(out.lse[i]) - double(out.positive[i]), ++valid;
  if (!problem.finite) total = std::numeric_limits<double>::quiet_NaN();
  const double factor = mean ? 1.0 / std::max<int64_t>(valid, 1) : 1.0;
  if (problem.query.kept) {
    Tensor all = problem.make_stats(problem.query.total);
    problem.query.scatter_last(all, stats);
    stats = all;
  }
  const auto accumulator = at::CppTypeToScalarType<T>::value;
  auto [dquery, dkey, dtemperature] = sums->sum(factor, accumulator);
  return {at::full({}, total * factor, accumulator), stats, dquery, dkey, dtemperature};
}

template <class T>
std::tuple<Tensor, Tensor> weighted_sum(const Tensor& query_flow, const Tensor& key_flow, const Tensor& values,
                                        const Tensor& inv_bandwidth, const Tensor& query_offsets, const Tensor& key_offsets,
                                        const std::optional<Tensor>& query_mask, const std::optional<Tensor>& key_mask,
                                        const std::string& flow_kernel) {
  const auto type = at::CppTypeToScalarType<T>::value;
  Side query = make_side("query", query_flow, query_flow, query_offsets, query_mask, type);
  Side key = make_side("key", values, key_flow, key_offsets, key_mask, type);
  TORCH_CHECK_VALUE(query.offsets.size() == key.offsets.size() && inv_bandwidth.numel() + 1 == int64_t(query.offsets.size()),
                    "expected the same number of frames in query_flow, key_flow and bandwidth");
  TORCH_CHECK_VALUE(query.flow.size(1) == key.flow.size(1), "key_flow: expected F=", query.flow.size(1), ", got ",
                    key.flow.size(1));
  Pairs<T> pairs = {};
  pairs.key = key.data.const_data_ptr();
  pairs.element = element_of(values.scalar_type());
  pairs.dim = values.size(1);
  pairs.query_flow = query.flow.template const_data_ptr<T>();
  pairs.key_flow = key.flow.template const_data_ptr<T>();
  pairs.channels = static_cast<int>(query.flow.size(1));
  pairs.flow_kernel = parse_flow_kernel(flow_kernel);
  std::vector<BlockTask<T>> blocks;
  const Tensor bandwidth = inv_bandwidth.contiguous();
  for (size_t b = 0; b + 1 < query.offsets.size(); ++b)
    for (int64_t row = query.offsets[b]; row < query.offsets[b + 1]; row += kRows) {
      const T inv = bandwidth.const_data_ptr<T>()[b];
      blocks.push_back({row, std::min<int64_t>(kRows, query.offsets[b + 1] - row), key.offsets[b], key.offsets[b + 1],
                        key.offsets[b], key.offsets[b + 1], inv * inv, query.offsets[b + 1] - query.offsets[b]});
    }
  Tensor sums = at::empty({query.offsets.back(), values.size(1)}, type), totals = at::empty({query.offsets.back()}, type);
  const int64_t threads = thread_count(blocks.size());
  ScratchPool<T> scratch(threads, engine<T>().scratch_size(pairs.dim, 0, false));
  parallel_items(blocks.size(), threads, [&](int64_t block, int64_t thread) {
    engine<T>().weighted_sum(pairs, blocks[block], scratch.of(thread), sums.data_ptr<T>(), totals.data_ptr<T>());
  });
  if (query.kept) {
    Tensor all = at::zeros({query.total, values.size(1)}, type), all_totals = at::zeros({query.total}, type);
    query.scatter_first(all, sums);
    query.scatter_last(all_totals, totals);
    return {all, all_totals};
  }
  return {sums, totals};
}

bool is_double(const Tensor& x) { return x.scalar_type() == at::kDouble; }

#define LF_PAIR_PARAMETERS                                                                                             \
  const Tensor &query, const Tensor &key, const Tensor &query_flow, const Tensor &key_flow, const Tensor &temperature, \
      const Tensor &inv_bandwidth, const Tensor &query_offsets, const Tensor &key_offsets,                             \
      const std::optional<Tensor>&query_mask, const std::optional<Tensor>&key_mask, int64_t, int64_t,                  \
      std::string_view flow_kernel, std::string_view positives, std::string_view negatives, std::string_view scope,    \
      bool symmetric, bool
#define LF_PAIR_ARGS         \
  {query,                    \
   key,                      \
   query_flow,               \
   key_flow,                 \
   temperature,              \
   inv_bandwidth,            \
   query_offsets,            \
   key_offsets,              \
   query_mask,               \
   key_mask,                 \
   std::string(flow_kernel), \
   std::string(positives),   \
   std::string(negatives),   \
   std::string(scope),       \
   symmetric}

std::tuple<Tensor, Tensor> forward_op(LF_PAIR_PARAMETERS) {
  const PairArgs args LF_PAIR_ARGS;
  return is_double(query) ? forward<double>(args) : forward<float>(args);
}

std::tuple<Tensor, Tensor, Tensor> backward_op(LF_PAIR_PARAMETERS, const Tensor& row_stats, const Tensor& column_stats,
                                               const Tensor& row_grad, const Tensor& column_grad, bool need_query,
                                               bool need_key, bool need_temperature) {
  const PairArgs args LF_PAIR_ARGS;
  return is_double(query)
             ? backward<double>(args, row_stats, column_stats, row_grad, column_grad, need_query, need_key, need_temperature)
             : backward<float>(args, row_stats, column_stats, row_grad, column_grad, need_query, need_key, need_temperature);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fused_op(LF_PAIR_PARAMETERS, std::string_view reduction, bool need_query,
                                                            bool need_key, bool need_temperature) {
  const PairArgs args LF_PAIR_ARGS;
  return is_double(query) ? fused<double>(args, reduction == "mean", need_query, need_key, need_temperature)
                          : fused<float>(args, reduction == "mean", need_query, need_key, need_temperature);
}

std::tuple<Tensor, Tensor> weighted_sum_op(const Tensor& query_flow, const Tensor& key_flow, const Tensor& values,
                                           const Tensor& inv_bandwidth, const Tensor& query_offsets,
                                           const Tensor& key_offsets, const std::optional<Tensor>& query_mask,
                                           const std::optional<Tensor>& key_mask, int64_t, int64_t,
                                           std::string_view flow_kernel) {
  return is_double(values) ? weighted_sum<double>(query_flow, key_flow, values, inv_bandwidth, query_offsets, key_offsets,
                                                  query_mask, key_mask, std::string(flow_kernel))
                           : weighted_sum<float>(query_flow, key_flow, values, inv_bandwidth, query_offsets, key_offsets,
                                                 query_mask, key_mask, std::string(flow_kernel));
}

}  // namespace

TORCH_LIBRARY_IMPL(laparoflow, CPU, m) {
  m.impl("flow_infonce_forward", forward_op);
  m.impl("flow_infonce_backward", backward_op);
  m.impl("flow_infonce_fused", fused_op);
  m.impl("flow_weighted_sum", weighted_sum_op);
}

}  // namespace laparoflow::cpu
