// flow_weighted_sum on CPU tensors: sum_j w_ij v_j and sum_j w_ij, frame by frame.

#include "host.h"

namespace laparoflow::cpu {
namespace {

template <class T>
std::tuple<Tensor, Tensor> weighted_sum(const SumArguments& args) {
  const Side query = make_side("query", args.query_flow, args.query_flow, args.query_offsets, args.query_mask, std::nullopt,
                               kAccumulator<T>, args.max_query);
  const Side key = make_side("key", args.values, args.key_flow, args.key_offsets, args.key_mask, std::nullopt,
                             kAccumulator<T>, args.max_key);
  check_frames(query, key, args.inv_bandwidth);
  Pairs<T> pairs = pairs_of<T>(query, key);
  pairs.flow_kernel = args.flow_kernel;
  const std::vector<BlockTask<T>> blocks = blocks_of<T>(query, key, args.inv_bandwidth, false);
  const int64_t rows = query.offsets.back(), width = args.values.size(1);
  const Tensor sums = empty_on(args.values, {rows, width}, kAccumulator<T>);
  const Tensor totals = empty_on(args.values, {rows, 1}, kAccumulator<T>);
  const int64_t threads = thread_count(blocks.size());
  ScratchPool<T> scratch(sums, threads, engine<T>().scratch_size(pairs));
  parallel_items(blocks.size(), threads, [&](int64_t block, int64_t thread, Interrupt&) {
    engine<T>().weighted_sum(pairs, blocks[block], scratch.of(thread),
                             {sums.template mutable_data_ptr<T>(), totals.template mutable_data_ptr<T>()});
  });
  return {query.scattered(sums), torch::stable::squeeze(query.scattered(totals), 1)};
}

std::tuple<Tensor, Tensor> weighted_sum_op(const SumArguments& args) {
  return args.values.scalar_type() == ScalarType::Double ? weighted_sum<double>(args) : weighted_sum<float>(args);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(laparoflow, CPU, m) { m.impl("flow_weighted_sum", boxed<&weighted_sum_op>); }

}  // namespace laparoflow::cpu
