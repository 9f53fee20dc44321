// flow_weighted_sum on CPU tensors: sum_j w_ij v_j and sum_j w_ij, frame by frame.

#include <torch/library.h>

#include "host.h"

namespace laparoflow::cpu {
namespace {

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

std::tuple<Tensor, Tensor> weighted_sum_op(const Tensor& query_flow, const Tensor& key_flow, const Tensor& values,
                                           const Tensor& inv_bandwidth, const Tensor& query_offsets,
                                           const Tensor& key_offsets, const std::optional<Tensor>& query_mask,
                                           const std::optional<Tensor>& key_mask, int64_t, int64_t,
                                           std::string_view flow_kernel) {
  return values.scalar_type() == at::kDouble
             ? weighted_sum<double>(query_flow, key_flow, values, inv_bandwidth, query_offsets, key_offsets, query_mask,
                                    key_mask, std::string(flow_kernel))
             : weighted_sum<float>(query_flow, key_flow, values, inv_bandwidth, query_offsets, key_offsets, query_mask,
                                   key_mask, std::string(flow_kernel));
}

}  // namespace

TORCH_LIBRARY_IMPL(laparoflow, CPU, m) { m.impl("flow_weighted_sum", weighted_sum_op); }

}  // namespace laparoflow::cpu
