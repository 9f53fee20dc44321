// One block of query rows against its keys: the products and sweeps of engine.h's entry points, in order.
//
//     fused:     per chunk  S = K q^T, pair terms a and b stored, row sums    (1 product, 2 exponentials per pair)
//                per chunk  dS = alpha a + beta b, dq += dS^T k, dk += dS q   (2 products)
//                a and b of keys beyond those that are stored are made again: the same bits either way
//     gradient:  per chunk  S, dS in place, dq, dk                            (3 products, nothing stored)
#pragma once

#include "products.h"
#include "sweep.h"

namespace {

template <class T, class Visit>
void for_each_run(const BlockTask<T>& task, const Visit& visit) {
  const int64_t edges[4] = {task.key_begin, task.positive_begin, task.positive_end, task.key_end};
  for (int part = 0; part < 3; ++part)
    for (int64_t j = edges[part]; j < edges[part + 1]; j += kChunk)
      visit(KeyRun{j, std::min<int64_t>(kChunk, edges[part + 1] - j), part == 1});
}

template <class T>
struct Scratch {
  T* dquery;    // [kRows, padded dim]
  T* chunk;     // [kChunk, kRows]: logits, then dS
  T *a, *b;     // [stored + kChunk, kRows] each, fused form
  T* products;  // of Products

  static int64_t size(const Pairs<T>& pairs) {
    return kRows * padded(pairs.dim) + kChunk * kRows + Products<T>::scratch_size(pairs.dim) +
           (pairs.stored ? 2 * (pairs.stored + kChunk) * kRows : 0);
  }
  Scratch(T* base, const Pairs<T>& pairs) {
    dquery = base;
    chunk = dquery + kRows * padded(pairs.dim);
    products = chunk + kChunk * kRows;
    a = products + Products<T>::scratch_size(pairs.dim);
    b = a + (pairs.stored + kChunk) * kRows;
  }
};

template <class T>
class Block {
 public:
  Block(const Pairs<T>& pairs, const BlockTask<T>& task, T* scratch)
      : pairs_(pairs), task_(task), scratch_(scratch, pairs), products_(pairs, scratch_.products) {
    rows_ = {};
    rows_.rows = task.rows;
    for (int64_t i = 0; i < kRows; ++i) {
      const bool live = i < task.rows;
      rows_.live[i] = live;
      for (int c = 0; c < pairs.channels; ++c)
        rows_.flow[c][i] = live ? pairs.query_flow[(task.row + i) * pairs.channels + c] : T(0);
    }
  }

  KeyChunk<T> chunk(const KeyRun& run, const Maxima<T>* maxima = nullptr) const {
    KeyChunk<T> c = {};
    c.keys = run.count;
    c.flow = pairs_.key_flow + run.begin * pairs_.channels;
    c.channels = pairs_.channels;
    c.inv_bandwidth2 = task_.inv_bandwidth2;
    c.excludes = pairs_.query_group != nullptr;
    if (maxima && maxima->column)
      c.column_max = maxima->column + run.begin, c.column_max_positive = maxima->column_positive + run.begin;
    return c;
  }

  // products of a run, with kNoPair where the groups of a pair are equal
  void logits(const KeyRun& run, T* s) {
    products_.logits(run, s);
    if (pairs_.query_group == nullptr) return;
    const int64_t *rows = pairs_.query_group + task_.row, *keys = pairs_.key_group + run.begin;
    for (int64_t j = 0; j < run.count; ++j)
      for (int64_t i = 0; i < task_.rows; ++i)
        if (rows[i] == keys[j]) s[j * kRows + i] = T(kNoPair);
  }

  template <class FORM, class Sweep>
  void with_weights(const KeyRun& run, const Sweep& sweep) {
    using Plain = PairForm<FORM::KERNEL, FORM::INSIDE, FORM::DISSIMILAR, false>;
    if (run.weighted)
      sweep(FORM{});
    else
      sweep(Plain{});
  }

  template <class FORM, class Sweep>
  void with_guard(const KeyRun& run, const Sweep& sweep) {
    with_weights<FORM>(run, [&](auto form) {
      if (pairs_.guarded)
        sweep(form, std::true_type{});
      else
        sweep(form, std::false_type{});
    });
  }

  template <class FORM>
  bool run(const Maxima<T>& maxima) {
    products_.load_queries(task_.row, task_.rows);
    for (int64_t i = 0; i < kRows; ++i) rows_.max_logit[i] = rows_.max_positive[i] = -INFINITY;
    for_each_run(task_, [&](const KeyRun& run) {
      const KeyChunk<T> c = chunk(run, &maxima);
      logits(run, scratch_.chunk);
      in_turn(run, maxima.column, [&] {
        with_weights<FORM>(run, [&](auto form) { maxima_sweep<T, decltype(form)>(rows_, c, scratch_.chunk, scale()); });
      });
    });
    for (int64_t i = 0; i < task_.rows; ++i) {
      maxima.row[task_.row + i] = rows_.max_logit[i];
      maxima.row_positive[task_.row + i] = rows_.max_positive[i];
    }
    return true;
  }

  template <class FORM>
  bool run(const Statistics<T>& job) {
    products_.load_queries(task_.row, task_.rows);
    if (pairs_.guarded)
      for (int64_t i = 0; i < task_.rows; ++i)
        set_maxima(i, job.maxima.row[task_.row + i], job.maxima.row_positive[task_.row + i]);
    for_each_run(task_, [&](const KeyRun& run) {
      KeyChunk<T> c = chunk(run, &job.maxima);
      for (int k = 0; job.column_sums && k < kSums; ++k) c.column_sums[k] = job.column_sums + k * job.columns + run.begin;
      T* s = scratch_.chunk;
      logits(run, s);
      in_turn(run, job.column_sums, [&] {
        with_guard<FORM>(run, [&](auto form, auto guarded) {
          if (job.column_sums)
            row_column_sweep<T, decltype(form), decltype(guarded)::value>(rows_, c, s, scale());
          else
            row_sweep<T, decltype(form), false, decltype(guarded)::value>(rows_, c, s, scale(), nullptr, nullptr);
        });
      });
    });
    return finish<FORM>(job.stats);
  }

  template <class FORM>
  bool run(const Fused<T>& job) {
    products_.load_queries(task_.row, task_.rows);
    if (pairs_.guarded) {
      for (int64_t i = 0; i < kRows; ++i) rows_.max_logit[i] = rows_.max_positive[i] = -INFINITY;
      for_each_run(task_, [&](const KeyRun& run) {
        T* s = pair_terms(run, scratch_.a);
        logits(run, s);
        with_weights<FORM>(run, [&](auto form) { maxima_sweep<T, decltype(form)>(rows_, chunk(run), s, scale()); });
      });
      for (int64_t i = 0; i < kRows; ++i) set_maxima(i, rows_.max_logit[i], rows_.max_positive[i]);
    }
    for_each_run(task_, [&](const KeyRun& run) { make_pair_terms<FORM>(run); });
    if (!finish<FORM>(job.stats)) return false;
    begin_gradients(job.gradients);
    for_each_run(task_, [&](const KeyRun& run) {
      if (!is_stored(run)) make_pair_terms<FORM>(run);
      const T *a = pair_terms(run, scratch_.a), *b = pair_terms(run, scratch_.b);
      with_guard<FORM>(run, [&](auto form, auto guarded) {
        combine_sweep<T, decltype(form), decltype(guarded)::value>(rows_, run.count, a, b, scratch_.chunk);
      });
      add_gradients(run, job.gradients);
    });
    end_gradients(job.gradients);
    return true;
  }

  template <class FORM>
  bool run(const Gradient<T>& job) {
    products_.load_queries(task_.row, task_.rows);
    for (int64_t i = 0; i < task_.rows; ++i) {
      const Coefficients c = coefficients(job.rows, task_.row + i, task_.key_end - task_.key_begin);
      rows_.alpha[i] = c.alpha, rows_.beta[i] = c.beta, rows_.lse[i] = c.lse, rows_.positive[i] = c.positive;
    }
    begin_gradients(job.gradients);
    for_each_run(task_, [&](const KeyRun& run) {
      T column[4][kChunk];
      KeyChunk<T> c = chunk(run);
      if (job.columns) {
        for (int64_t j = 0; j < run.count; ++j) {
          const Coefficients k = coefficients(*job.columns, run.begin + j, task_.queries);
          column[0][j] = k.alpha, column[1][j] = k.beta, column[2][j] = k.lse, column[3][j] = k.positive;
        }
        c.alpha = column[0], c.beta = column[1], c.lse = column[2], c.positive = column[3];
      }
      logits(run, scratch_.chunk);
      with_guard<FORM>(run, [&](auto form, auto guarded) {
        gradient_sweep<T, decltype(form), decltype(guarded)::value>(rows_, c, scratch_.chunk, scale());
      });
      add_gradients(run, job.gradients);
    });
    end_gradients(job.gradients);
    return true;
  }

  template <class FORM>
  bool run(const WeightedSum<T>& job) {
    const int64_t ld = padded(pairs_.dim);
    std::memset(scratch_.dquery, 0, sizeof(T) * kRows * ld);
    for_each_run(task_, [&](const KeyRun& run) {
      weight_sweep<T, FORM::KERNEL>(rows_, chunk(run), scratch_.chunk);
      products_.weighted_keys(run, scratch_.chunk, scratch_.dquery);
    });
    for (int64_t i = 0; i < task_.rows; ++i) {
      std::memcpy(job.sums + (task_.row + i) * pairs_.dim, scratch_.dquery + i * ld, sizeof(T) * pairs_.dim);
      job.weight_sum[task_.row + i] = rows_.sums[kSumW][i];
    }
    return true;
  }

 private:
  Scale<T> scale() const { return Scale<T>(pairs_.inv_temperature * (pairs_.guarded ? 1.0 : kLog2e)); }
  bool is_stored(const KeyRun& run) const { return run.begin + run.count - task_.key_begin <= pairs_.stored; }
  // where a run's terms a or b are; all runs that are not stored have one place behind those that are
  T* pair_terms(const KeyRun& run, T* base) const {
    return base + (is_stored(run) ? run.begin - task_.key_begin : pairs_.stored) * kRows;
  }

  // a and b of a run, and what they add to the row sums, which nothing reads after `finish`
  template <class FORM>
  void make_pair_terms(const KeyRun& run) {
    T *a = pair_terms(run, scratch_.a), *b = pair_terms(run, scratch_.b);
    if (!pairs_.guarded)
      logits(run, scratch_.chunk);
    else if (!is_stored(run))
      logits(run, a);
    with_guard<FORM>(run, [&](auto form, auto guarded) {
      constexpr bool kGuarded = decltype(guarded)::value;
      row_sweep<T, decltype(form), true, kGuarded>(rows_, chunk(run), kGuarded ? a : scratch_.chunk, scale(), a, b);
    });
  }

  // `add` changes what blocks share at the keys of the run: one block after the other, whichever threads they are on
  template <class Add>
  void in_turn(const KeyRun& run, bool shared, const Add& add) {
    const Turn& turn = task_.turn;
    const int64_t end = run.begin + run.count;
    if (shared && turn.before && __atomic_load_n(turn.before, __ATOMIC_ACQUIRE) < end) wait_for_turn(turn, end);
    add();
    if (shared) __atomic_store_n(turn.reached, end, __ATOMIC_RELEASE);
  }

  // a row without any counted key or positive has nothing to subtract from
  void set_maxima(int64_t i, T max_logit, T max_positive) {
    rows_.max_logit[i] = max_logit > T(-INFINITY) ? max_logit : T(0);
    rows_.max_positive[i] = max_positive > T(-INFINITY) ? max_positive : T(0);
  }

  // sums to statistics, and the coefficients of the summed loss: dloss = dlse - dpositive on valid rows
  template <class FORM>
  bool finish(const Stats<T>& stats) {
    for (int64_t i = 0; i < task_.rows; ++i) {
      const T a = rows_.sums[kSumA][i], w = rows_.sums[kSumW][i], p = rows_.sums[kSumPositive][i];
      const int64_t keys = task_.key_end - task_.key_begin;
      const double sums[kSums] = {a, w, p, rows_.sums[kSumWLogW][i]};
      if (!finish_pixel(pairs_, sums, rows_.max_logit[i], rows_.max_positive[i], keys, stats, task_.row + i)) return false;
      // with one key p = w / W = 1: the gradient is 0, not the rounding error of a / a
      const bool valid = a > T(0) && w > T(0) && keys > 1;
      rows_.alpha[i] = valid ? T(1) / a : T(0);
      rows_.beta[i] = valid ? T(-1) / (FORM::INSIDE ? p : w) : T(0);
    }
    return true;
  }

  struct Coefficients {
    T alpha, beta, lse, positive;
  };
  // guarded: the exponent carries the statistic; else e^-lse goes into the coefficient
  Coefficients coefficients(const StatsGrad<T>& g, int64_t i, int64_t partners) const {
    Coefficients c = {0, 0, 0, 0};
    if (partners == 1 && g.dlse[i] == -g.dpositive[i]) return c;  // p = w / W = 1
    const T dlse = static_cast<T>(g.dlse[i] * pairs_.upstream), dpositive = static_cast<T>(g.dpositive[i] * pairs_.upstream);
    if (g.lse[i] > T(-INFINITY)) {
      c.lse = g.lse[i];
      c.alpha = pairs_.guarded ? dlse : dlse * std::exp(-g.lse[i]);
    }
    if (g.weight_sum[i] > T(0)) {
      if (!pairs_.inside) {
        c.beta = dpositive / g.weight_sum[i];
      } else if (g.positive[i] > T(-INFINITY)) {
        c.positive = g.positive[i];
        c.beta = pairs_.guarded ? dpositive : dpositive * std::exp(-g.positive[i]);
      }
    }
    return c;
  }

  void begin_gradients(const Gradients<T>& g) {
    if (g.dquery || g.dtemperature) std::memset(scratch_.dquery, 0, sizeof(T) * kRows * padded(pairs_.dim));
  }
  void add_gradients(const KeyRun& run, const Gradients<T>& g) {
    in_turn(run, g.dkey, [&] {
      products_.gradients(run, scratch_.chunk, g.dquery || g.dtemperature ? scratch_.dquery : nullptr,
                          g.dkey ? g.dkey + run.begin * padded(pairs_.dim) : nullptr);
    });
  }
  void end_gradients(const Gradients<T>& g) {
    const int64_t ld = padded(pairs_.dim);
    for (int64_t i = 0; i < task_.rows; ++i) {
      const T *dq = scratch_.dquery + i * ld, *q = products_.query_row(i);
      if (g.dtemperature) {
        double dot = -pairs_.centre * rows_.ds[i];
        for (int64_t d = 0; d < pairs_.dim; ++d) dot += double(q[d]) * double(dq[d]);
        *g.dtemperature += dot;
      }
      if (g.dquery)
        for (int64_t d = 0; d < pairs_.dim; ++d)
          g.dquery[(task_.row + i) * pairs_.dim + d] = dq[d] * T(pairs_.inv_temperature);
    }
  }

  const Pairs<T>& pairs_;
  const BlockTask<T>& task_;
  Scratch<T> scratch_;
  Products<T> products_;
  RowBlock<T> rows_;
};

// Runtime options to compile-time forms.
template <class T, class Run>
auto with_form(const Pairs<T>& pairs, const Run& run) {
  const auto by_negatives = [&](auto kernel, auto inside) {
    constexpr FlowKernel k = decltype(kernel)::value;
    constexpr bool in = decltype(inside)::value;
    return pairs.dissimilar ? run(PairForm<k, in, true, true>{}) : run(PairForm<k, in, false, true>{});
  };
  const auto by_positives = [&](auto kernel) {
    return pairs.inside ? by_negatives(kernel, std::true_type{}) : by_negatives(kernel, std::false_type{});
  };
  switch (pairs.flow_kernel) {
    case FlowKernel::kLaplace:
      return by_positives(std::integral_constant<FlowKernel, FlowKernel::kLaplace>{});
    case FlowKernel::kCauchy:
      return by_positives(std::integral_constant<FlowKernel, FlowKernel::kCauchy>{});
    case FlowKernel::kTophat:
      return by_positives(std::integral_constant<FlowKernel, FlowKernel::kTophat>{});
    default:
      return by_positives(std::integral_constant<FlowKernel, FlowKernel::kGaussian>{});
  }
}

template <class T, class Job>
bool run_block(const Pairs<T>& pairs, const BlockTask<T>& task, T* scratch, const Job& job) {
  return with_form(pairs, [&](auto form) { return Block<T>(pairs, task, scratch).template run<decltype(form)>(job); });
}

}  // namespace

namespace laparoflow::cpu {

template <class T>
const Engine<T>* LF_ENGINE() {
  static const Engine<T> engine = {Scratch<T>::size, run_block<T>, run_block<T>, run_block<T>, run_block<T>, run_block<T>};
  return &engine;
}
template const Engine<float>* LF_ENGINE<float>();
template const Engine<double>* LF_ENGINE<double>();

}  // namespace laparoflow::cpu
