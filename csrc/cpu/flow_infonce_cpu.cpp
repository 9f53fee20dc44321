// flow_infonce on CPU tensors: statistics, their gradient, and the reduced loss with its gradients in one sweep.
//
// Work is a list of blocks of kRows query rows; a thread holds one block's pairs at a time. Every row's results depend on
// its block alone; dkey and column sums are added up from shares.

#include "pair_problem.h"
#include "statistics.h"

namespace laparoflow::cpu {
namespace {

// Column statistics from the sums over all query rows [4, columns]; false: needs the guard.
template <class T>
bool finish_columns(const PairProblem<T>& problem, const double* s, const T* maxima, const Stats<T>& out) {
  const std::vector<int64_t>& queries = problem.query.offsets;
  const int64_t n = problem.columns();
  size_t frame = 0;
  for (int64_t j = 0; j < n; ++j) {
    while (j >= problem.key.offsets[frame + 1]) ++frame;
    const bool batch = problem.args_.scope == Scope::kBatch;
    const int64_t partners = batch ? queries.back() : queries[frame + 1] - queries[frame];
    const double sums[kSums] = {s[j], s[n + j], s[2 * n + j], s[3 * n + j]};
    const double max = maxima ? maxima[j] : 0, max_positive = maxima ? maxima[n + j] : 0;
    if (!finish_pixel(problem.pairs, sums, max, max_positive, partners, out, j)) return false;
  }
  return true;
}

// [2, rows] and [2, columns] (none unless asked for): largest logits and positive exponents.
template <class T>
struct AllMaxima {
  std::vector<T> rows, columns;

  AllMaxima(const PairProblem<T>& problem, Shares<T>& shares, bool with_columns)
      : rows(2 * problem.rows()), columns(with_columns ? 2 * problem.columns() : 0, -INFINITY) {
    const int64_t n = columns.size();
    std::vector<T> of_shares(shares.count * n, -INFINITY);
    shares.run(engine<T>().maxima,
               [&](int64_t, int64_t share) { return parts(with_columns ? of_shares.data() + share * n : nullptr); });
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t share = 0; share < shares.count; ++share) columns[j] = std::max(columns[j], of_shares[share * n + j]);
      if (columns[j] == T(-INFINITY)) columns[j] = 0;  // a column without pairs has nothing to subtract from
    }
  }
  // with the columns' at a place of their own, or null
  Maxima<T> parts(T* of_columns) {
    T* r = rows.data();
    return {r, r + rows.size() / 2, of_columns, of_columns ? of_columns + columns.size() / 2 : nullptr};
  }
};

// One pass over the pairs (guarded: two): row statistics and, when symmetric, column statistics; false: needs the guard.
template <class T>
bool forward_pass(PairProblem<T>& problem, const Tensor& row_stats, const Tensor& column_stats) {
  const bool with_columns = problem.args_.symmetric;
  const int64_t n = with_columns ? problem.columns() : 0;
  Shares<T> shares(problem, 4 * n * sizeof(double));
  std::optional<AllMaxima<T>> found;
  if (problem.pairs.guarded) found.emplace(problem, shares, with_columns);
  const Maxima<T> maxima = found ? found->parts(with_columns ? found->columns.data() : nullptr) : Maxima<T>{};
  std::vector<double> sums(shares.count * 4 * n);
  const Stats<T> out = PairProblem<T>::rows_of(row_stats);
  const bool ok = shares.run(engine<T>().statistics, [&](int64_t, int64_t share) {
    return Statistics<T>{maxima, out, with_columns ? sums.data() + share * 4 * n : nullptr, n};
  });
  if (!with_columns) return ok;
  for (int64_t share = 1; share < shares.count; ++share)
    for (int64_t i = 0; i < 4 * n; ++i) sums[i] += sums[share * 4 * n + i];
  return ok && finish_columns(problem, sums.data(), maxima.column, PairProblem<T>::rows_of(column_stats));
}

template <class T>
std::tuple<Tensor, Tensor> forward(const PairArguments& args) {
  PairProblem<T> problem(args);
  const Tensor rows = problem.make_stats(problem.rows());
  const Tensor columns = problem.make_stats(args.symmetric ? problem.columns() : 0);
  if (!problem.finite) {
    fill(rows, std::numeric_limits<T>::quiet_NaN());
    fill(columns, std::numeric_limits<T>::quiet_NaN());
  } else if (!forward_pass(problem, rows, columns)) {
    problem.pairs.guarded = true;
    forward_pass(problem, rows, columns);
  }
  return {problem.scattered_stats(problem.query, rows),
          args.symmetric ? problem.scattered_stats(problem.key, columns) : columns};
}

// Inside: whether some positive term is too small to be taken without its maximum.
template <class T>
bool has_small_positive(const Tensor& stats) {
  const Stats<T> s = PairProblem<T>::rows_of(stats);
  const double least = std::log(double(kLeastPositive<T>));
  for (int64_t i = 0; i < stats.size(1); ++i)
    if (s.weight_sum[i] > 0 && s.positive[i] < least && std::isfinite(s.positive[i])) return true;
  return false;
}

template <class T>
StatsGrad<T> stats_grad(const Tensor& stats, const Tensor& grad) {
  const Stats<T> s = PairProblem<T>::rows_of(stats);
  const T* g = grad.const_data_ptr<T>();
  return {s.lse, s.weight_sum, s.positive, g, g + stats.size(1)};
}

// A power of two that brings the largest upstream gradient near 2^-13: over the smallest W it is then finite in float32.
template <class T>
double gradient_scale(const Tensor& rows, const Tensor& columns) {
  double largest = 0;
  for (const Tensor* x : {&rows, &columns}) {
    const T* gradient = x->const_data_ptr<T>();
    for (int64_t i = 0, n = x->numel(); i < n; ++i) {
      const double size = std::abs(static_cast<double>(gradient[i]));
      largest = largest <= size || std::isnan(size) ? size : largest;  // NaN wins, and stays
    }
  }
  return largest > 0 && std::isfinite(largest) ? std::exp2(std::clamp(-13.0 - std::ilogb(largest), -100.0, 100.0)) : 1.0;
}

// The sums of dS over rows and columns are known: the gradients of the statistics that exist. Hence dtemperature can be
// summed around any centre: among large logits, around the mean lse, an error common to a row's softmax, as lse's rounding
// is, weighs least.
template <class T>
struct Centre {
  double total = 0, lse = 0, weight = 0;  // sum_ij dS_ij; sum_i |dlse_i| lse_i and sum_i |dlse_i|

  void add(const StatsGrad<T>& g, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      if (g.lse[i] > -INFINITY) {
        const double size = std::abs(double(g.dlse[i]));
        total += g.dlse[i], lse += size * g.lse[i], weight += size;
      }
      if (g.weight_sum[i] > 0 && g.positive[i] > -INFINITY) total += g.dpositive[i];
    }
  }
};

template <class T>
std::tuple<Tensor, Tensor, Tensor> backward(const PairArguments& args, const StatsArguments& given, const Needs& need) {
  PairProblem<T> problem(args);
  const Tensor rows = problem.query.template gather<T>(given.row_stats);
  const Tensor drows = problem.query.template gather<T>(given.row_grad);
  const Tensor columns = args.symmetric ? problem.key.template gather<T>(given.column_stats) : rows;
  const Tensor dcolumns = args.symmetric ? problem.key.template gather<T>(given.column_grad) : drows;
  const double scale = problem.pairs.upstream = gradient_scale<T>(drows, dcolumns);
  const bool large = problem.pairs.guarded;
  if (problem.pairs.inside && !problem.pairs.guarded)
    problem.pairs.guarded = has_small_positive<T>(rows) || has_small_positive<T>(columns);
  Shares<T> shares(problem, GradientSums<T>::bytes(problem, need));
  GradientSums<T> sums(problem, shares, need);
  const StatsGrad<T> row_side = stats_grad<T>(rows, drows), column_side = stats_grad<T>(columns, dcolumns);
  Centre<T> centre;
  centre.add(row_side, problem.rows());
  if (args.symmetric) centre.add(column_side, problem.columns());
  problem.pairs.centre = large && centre.weight > 0 ? centre.lse / centre.weight / problem.pairs.inv_temperature : 0;
  if (problem.finite) {
    shares.run(engine<T>().gradient, [&](int64_t block, int64_t share) {
      return Gradient<T>{row_side, args.symmetric ? &column_side : nullptr, sums.of(block, share)};
    });
  }
  return sums.sum(1.0 / scale, args.query.scalar_type(), problem.pairs.centre * centre.total * scale);
}

template <class T>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fused(const PairArguments& args, const ReductionArguments& by,
                                                         const Needs& need) {
  check(!args.symmetric, "symmetric: the one-sweep form has one direction");
  PairProblem<T> problem(args);
  const Tensor stats = problem.make_stats(problem.rows());
  const Stats<T> out = PairProblem<T>::rows_of(stats);
  problem.pairs.stored = problem.stored();
  Shares<T> shares(problem, GradientSums<T>::bytes(problem, need));
  std::optional<GradientSums<T>> sums;
  bool ok = false;
  while (!ok && problem.finite) {
    sums.emplace(problem, shares, need);
    ok = shares.run(engine<T>().fused, [&](int64_t block, int64_t share) { return Fused<T>{out, sums->of(block, share)}; });
    if (!ok) problem.pairs.guarded = true;
  }
  if (!problem.finite) {
    sums.emplace(problem, shares, need);
    fill(stats, std::numeric_limits<T>::quiet_NaN());
  }
  double total = 0;
  int64_t valid = 0;
  for (int64_t i = 0; i < problem.rows(); ++i)
    if (out.weight_sum[i] > T(0) && out.lse[i] > T(-INFINITY))
      total += double(out.lse[i]) - double(out.positive[i]), ++valid;
  if (!problem.finite) total = std::numeric_limits<double>::quiet_NaN();
  const double factor = by.reduction == Reduction::kMean ? 1.0 / std::max<int64_t>(valid, 1) : 1.0;
  auto [dquery, dkey, dtemperature] = sums->sum(factor, kAccumulator<T>);
  return {GradientSums<T>::number(stats, total * factor), problem.scattered_stats(problem.query, stats), dquery, dkey,
          dtemperature};
}

bool is_double(const PairArguments& args) { return args.query.scalar_type() == ScalarType::Double; }

std::tuple<Tensor, Tensor> forward_op(const PairArguments& args) {
  return is_double(args) ? forward<double>(args) : forward<float>(args);
}

std::tuple<Tensor, Tensor, Tensor> backward_op(const PairArguments& args, const StatsArguments& given, const Needs& need) {
  return is_double(args) ? backward<double>(args, given, need) : backward<float>(args, given, need);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fused_op(const PairArguments& args, const ReductionArguments& by,
                                                            const Needs& need) {
  return is_double(args) ? fused<double>(args, by, need) : fused<float>(args, by, need);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(laparoflow, CPU, m) {
  m.impl("flow_infonce_forward", boxed<&forward_op>);
  m.impl("flow_infonce_backward", boxed<&backward_op>);
  m.impl("flow_infonce_fused", boxed<&fused_op>);
}

}  // namespace laparoflow::cpu
