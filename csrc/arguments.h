// The arguments of the operators, for every device: the groups of laparoflow_kernels/arguments.py, in the same order, read
// from the dispatcher's stack once; options become enumerators here, and an unknown one is an error.
#pragma once

#include <tuple>

#include "pair_math.h"
#include "tensors.h"

namespace laparoflow {

/// Takes the arguments of one call in the order of the schema. An unknown option is reported by `finish`, when every
/// argument has been taken: the stack owns what it holds until then.
class Reader {
 public:
  explicit Reader(StableIValue* stack) : stack_(stack) {}
  template <class... Fields>
  void operator()(Fields&... fields) {
    (take(fields), ...);
  }
  void finish(std::uint64_t count) const {
    check(count == taken_, "the operator was called with ", count, " arguments, its kernel takes ", taken_);
    check(unknown_.empty(), unknown_);
  }

 private:
  template <class Field>
  void take(Field& field) {
    if constexpr (std::is_enum_v<Field>) {
      const std::string name = torch::stable::detail::to<std::string>(stack_[taken_++]);
      if (!parse_option(name, field) && unknown_.empty()) unknown_ = unknown_option<Field>(name);
    } else {
      field = torch::stable::detail::to<Field>(stack_[taken_++]);
    }
  }

  StableIValue* stack_;
  std::uint64_t taken_ = 0;
  std::string unknown_;
};

/// A packed problem. Frames of a batch are concatenated: T pixels of B frames, frame b owns rows offsets[b] : offsets[b +
/// 1].
struct PairArguments : PairOptions {
  Tensor query, key;                      // [Tq, D], [Tk, D]
  Tensor query_flow, key_flow;            // [Tq, F], [Tk, F]
  Tensor temperature, inv_bandwidth;      // [], [B]
  Tensor query_offsets, key_offsets;      // [B + 1] int64
  OptionalTensor query_mask, key_mask;    // [Tq], [Tk] bool, true = keep
  OptionalTensor query_group, key_group;  // [Tq], [Tk] int64: a pair of equal groups counts nowhere
  std::int64_t max_query, max_key;        // pixels of the largest frame

  explicit PairArguments(Reader& take) {
    take(query, key, query_flow, key_flow, temperature, inv_bandwidth, query_offsets, key_offsets, query_mask, key_mask,
         query_group, key_group, max_query, max_key, flow_kernel, positives, negatives, scope, symmetric, bounded,
         full_float, deterministic, weight_stats);
  }
};

struct StatsArguments {
  Tensor row_stats, column_stats, row_grad, column_grad;  // [4, Tq], [4, Tk or 0], [2, Tq], [2, Tk or 0]

  explicit StatsArguments(Reader& take) { take(row_stats, column_stats, row_grad, column_grad); }
};

struct ReductionArguments {
  Reduction reduction;

  explicit ReductionArguments(Reader& take) { take(reduction); }
};

struct Needs {
  bool query, key, temperature;

  explicit Needs(Reader& take) { take(query, key, temperature); }
};

struct SumArguments {
  Tensor query_flow, key_flow, values, inv_bandwidth, query_offsets, key_offsets;  // values [Tk, C]
  OptionalTensor query_mask, key_mask;
  std::int64_t max_query, max_key;
  FlowKernel flow_kernel;

  explicit SumArguments(Reader& take) {
    take(query_flow, key_flow, values, inv_bandwidth, query_offsets, key_offsets, query_mask, key_mask, max_query, max_key,
         flow_kernel);
  }
};

namespace detail {

template <auto kernel, class Signature>
struct Boxed;

template <auto kernel, class... Results, class... Groups>
struct Boxed<kernel, std::tuple<Results...> (*)(const Groups&...)> {
  static void call(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs) {
    Reader take(stack);
    const std::tuple<Groups...> groups{Groups(take)...};  // in order: braces
    take.finish(inputs);
    check(outputs == sizeof...(Results), "the operator has ", outputs, " results, its kernel ", sizeof...(Results));
    const auto results = std::apply(kernel, groups);
    std::apply([&](const auto&... result) { ((*stack++ = torch::stable::detail::from(result)), ...); }, results);
  }
};

}  // namespace detail

/// A function of groups of arguments, as the dispatcher calls it.
template <auto kernel>
constexpr auto boxed = &detail::Boxed<kernel, decltype(kernel)>::call;

}  // namespace laparoflow
