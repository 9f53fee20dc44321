// flow_infonce on CPU tensors: statistics, their gradient, and the reduced loss with its gradients in one sweep.
//
// Work is a list of blocks of kRows query rows; a thread holds one block's pairs at a time. Every row's results depend on
// its block alone; dkey and column sums are added up from shares.

#include <torch/library.h>

#include "pair_problem.h"

namespace laparoflow::cpu {
namespace {

constexpr double kSmallPositive = 50.0;

// Column statistics from the shares of sums over query rows.
template <class T>
void finish_columns(const PairProblem<T>& problem, const Tensor& sums, const Tensor& maxima, const Stats<T>& out) {
  const bool plain = !problem.pairs.inside && !problem.pairs.dissimilar;
  const int64_t n = problem.columns();
  const double ln2 = std::log(2.0);
  const Tensor total = sums.sum(0);
  const double* s = total.data_ptr<double>();
  const T* m = maxima.defined() ? maxima.data_ptr<T>() : nullptr;
  size_t frame = 0;
  for (int64_t j = 0; j < n; ++j) {
    while (j >= problem.key.offsets[frame + 1]) ++frame;
    const bool one_query = plain && problem.queries_of(frame) == 1;
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

}  // namespace

TORCH_LIBRARY_IMPL(laparoflow, CPU, m) {
  m.impl("flow_infonce_forward", forward_op);
  m.impl("flow_infonce_backward", backward_op);
  m.impl("flow_infonce_fused", fused_op);
}

}  // namespace laparoflow::cpu
