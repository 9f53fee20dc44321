// The CUDA side of the `laparoflow` operators: checks, device guard, current stream, workspace from
// the caching allocator, launch. No host synchronisation, so a CUDA graph can capture every call.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cstdlib>
#include <optional>
#include <string_view>
#include <tuple>

#include "cuda/entry.h"

namespace laparoflow::cuda {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Element element_of(const Tensor& query) {
  switch (query.scalar_type()) {
    case at::kBFloat16:
      return Element::kBFloat16;
    case at::kHalf:
      return Element::kHalf;
    case at::kFloat:
      return Element::kFloat;
    default:
      TORCH_CHECK_TYPE(false, "query: the CUDA backend takes bfloat16, float16 or float32, got ", query.scalar_type(),
                       "; use backend='reference' for float64 on a GPU");
  }
}

void check_float(const Tensor& x, const char* name, const Tensor& like) {
  TORCH_CHECK_TYPE(x.scalar_type() == at::kFloat, name, ": expected float32, got ", x.scalar_type());
  TORCH_CHECK_VALUE(x.device() == like.device(), name, ": expected on ", like.device(), ", got ", x.device());
  TORCH_CHECK_VALUE(x.is_contiguous(), name, ": expected contiguous");
}

void check_rows(const Tensor& x, const char* name, std::int64_t rows) {
  TORCH_CHECK_VALUE(x.dim() == 2 && x.size(0) == rows, name, ": expected [", rows, ", width], got ", x.sizes());
}

Side side_of(const char* name, const Tensor& flow, const Tensor& offsets, const OptionalTensor& mask, std::int64_t longest) {
  check_float(flow, name, flow);
  TORCH_CHECK_VALUE(flow.dim() == 2, name, " flow: expected [total, F], got ", flow.sizes());
  TORCH_CHECK_TYPE(offsets.scalar_type() == at::kLong, name, " offsets: expected int64, got ", offsets.scalar_type());
  TORCH_CHECK_VALUE(offsets.device() == flow.device() && offsets.is_contiguous() && offsets.dim() == 1, name,
                    " offsets: expected contiguous [B + 1] on ", flow.device());
  Side side;
  side.flow = flow.const_data_ptr<float>();
  side.offsets = offsets.const_data_ptr<std::int64_t>();
  side.total = flow.size(0);
  side.longest = longest;
  if (mask.has_value()) {
    TORCH_CHECK_TYPE(mask->scalar_type() == at::kBool, name, " mask: expected bool, got ", mask->scalar_type());
    TORCH_CHECK_VALUE(mask->device() == flow.device() && mask->is_contiguous() && mask->numel() == side.total, name,
                      " mask: expected contiguous [", side.total, "] on ", flow.device());
    side.mask = static_cast<const unsigned char*>(mask->const_data_ptr());
  }
  return side;
}

int check_flow_width(const Tensor& query_flow, const Tensor& key_flow) {
  TORCH_CHECK_VALUE(query_flow.size(1) >= 1 && query_flow.size(1) <= kMaxFlowWidth, "query_flow: expected 1 to ",
                    kMaxFlowWidth, " components, got ", query_flow.size(1));
  TORCH_CHECK_VALUE(key_flow.size(1) == query_flow.size(1), "key_flow: expected ", query_flow.size(1),
                    " components like query_flow, got ", key_flow.size(1));
  return static_cast<int>(query_flow.size(1));
}

int check_frames(const Tensor& query_offsets, const Tensor& key_offsets, const Tensor& inv_bandwidth) {
  const std::int64_t frames = inv_bandwidth.numel();
  TORCH_CHECK_VALUE(query_offsets.numel() == frames + 1 && key_offsets.numel() == frames + 1, "offsets: expected ",
                    frames + 1, " entries for ", frames, " frames, got ", query_offsets.numel(), " and ",
                    key_offsets.numel());
  TORCH_CHECK_VALUE(frames < (std::int64_t{1} << 31), "inv_bandwidth: too many frames: ", frames);
  return static_cast<int>(frames);
}

bool aligned_rows(const Tensor& x) {
  return reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0 && x.size(1) * x.element_size() % 16 == 0;
}

DeviceLimits limits_of(const Tensor& x) {
  DeviceLimits limits;
  const int device = x.device().index();
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&limits.shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return limits;
}

/// The path of 16-bit inputs: sm90a where the GPU is of compute capability 9.0 and the build holds 9.0a, else sm80;
/// LAPAROFLOW_CUDA_PATH=sm80 or sm90a insists on one.
Path path_of(const Tensor& query) {
  static const char* const setting = std::getenv("LAPAROFLOW_CUDA_PATH");
  const std::string_view wish = setting == nullptr ? "" : setting;
  TORCH_CHECK_VALUE(wish.empty() || wish == "sm80" || wish == "sm90a", "LAPAROFLOW_CUDA_PATH: expected sm80 or sm90a, got '",
                    wish, "'");
  if (wish == "sm80" || query.scalar_type() == at::kFloat) return Path::kWarp;
  constexpr bool kBuilt = std::string_view(LF_CUDA_ARCHITECTURES).find("9.0a") != std::string_view::npos;
  int major = 0, minor = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, query.device().index()));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, query.device().index()));
  const bool runs = kBuilt && major == 9 && minor == 0;
  TORCH_CHECK_VALUE(runs || wish.empty(), "LAPAROFLOW_CUDA_PATH=sm90a: needs a GPU of compute capability 9.0, got ", major,
                    ".", minor, ", and a build for 9.0a, got ", LF_CUDA_ARCHITECTURES);
  return runs ? Path::kWarpgroup : Path::kWarp;
}

Problem problem_of(const Tensor& query, const Tensor& key, const Tensor& query_flow, const Tensor& key_flow,
                   const Tensor& temperature, const Tensor& inv_bandwidth, const Tensor& query_offsets,
                   const Tensor& key_offsets, const OptionalTensor& query_mask, const OptionalTensor& key_mask,
                   std::int64_t max_query, std::int64_t max_key, std::string_view flow_kernel, std::string_view positives,
                   std::string_view negatives, std::string_view scope, bool symmetric, bool bounded) {
  Problem p;
  p.element = element_of(query);
  TORCH_CHECK_TYPE(key.scalar_type() == query.scalar_type(), "key: expected ", query.scalar_type(), " like query, got ",
                   key.scalar_type());
  check_rows(query, "query", query_flow.size(0));
  check_rows(key, "key", key_flow.size(0));
  TORCH_CHECK_VALUE(query.is_contiguous() && key.is_contiguous(), "query, key: expected contiguous");
  TORCH_CHECK_VALUE(
      key.device() == query.device() && query_flow.device() == query.device() && key_flow.device() == query.device(),
      "key and flows: expected on ", query.device(), " like query");
  TORCH_CHECK_VALUE(query.size(1) >= 1 && query.size(1) <= kMaxDepth, "query: the CUDA backend takes 1 to ", kMaxDepth,
                    " channels, got ", query.size(1));
  TORCH_CHECK_VALUE(key.size(1) == query.size(1), "key: expected ", query.size(1), " channels like query, got ",
                    key.size(1));
  check_float(temperature, "temperature", query);
  TORCH_CHECK_VALUE(temperature.numel() == 1, "temperature: expected one number, got ", temperature.sizes());
  check_float(inv_bandwidth, "inv_bandwidth", query);
  p.row = side_of("query", query_flow, query_offsets, query_mask, max_query);
  p.column = side_of("key", key_flow, key_offsets, key_mask, max_key);
  p.row.embedding = query.const_data_ptr();
  p.column.embedding = key.const_data_ptr();
  p.temperature = temperature.const_data_ptr<float>();
  p.inv_bandwidth = inv_bandwidth.const_data_ptr<float>();
  p.frames = check_frames(query_offsets, key_offsets, inv_bandwidth);
  p.depth = static_cast<int>(query.size(1));
  p.flow_width = check_flow_width(query_flow, key_flow);
  p.full_float = at::globalContext().float32MatmulPrecision() == at::Float32MatmulPrecision::HIGHEST;
  p.aligned = aligned_rows(query) && aligned_rows(key);
  p.flow_kernel = parse_flow_kernel(flow_kernel);
  p.positives = parse_positives(positives);
  p.negatives = parse_negatives(negatives);
  p.scope = parse_scope(scope);
  p.symmetric = symmetric;
  p.bounded = bounded;
  p.deterministic = at::globalContext().deterministicAlgorithms();
  p.path = path_of(query);
  return p;
}

Tensor bytes_on(const Tensor& like, std::size_t bytes) {
  return at::empty({static_cast<std::int64_t>(bytes)}, like.options().dtype(at::kByte));
}

Tensor floats_on(const Tensor& like, at::IntArrayRef sizes) { return at::empty(sizes, like.options().dtype(at::kFloat)); }

void check_launch(Status status, const char* name) {
  TORCH_CHECK(status != kDoesNotFit, name, ": no tile fits this device's shared memory or its grid");
  C10_CUDA_CHECK(status);
}

std::tuple<Tensor, Tensor> flow_infonce_forward(
    const Tensor& query, const Tensor& key, const Tensor& query_flow, const Tensor& key_flow, const Tensor& temperature,
    const Tensor& inv_bandwidth, const Tensor& query_offsets, const Tensor& key_offsets, const OptionalTensor& query_mask,
    const OptionalTensor& key_mask, std::int64_t max_query, std::int64_t max_key, std::string_view flow_kernel,
    std::string_view positives, std::string_view negatives, std::string_view scope, bool symmetric, bool bounded) {
  const c10::cuda::CUDAGuard guard(query.device());
  const Problem p =
      problem_of(query, key, query_flow, key_flow, temperature, inv_bandwidth, query_offsets, key_offsets, query_mask,
                 key_mask, max_query, max_key, flow_kernel, positives, negatives, scope, symmetric, bounded);
  const DeviceLimits device = limits_of(query);
  const Tensor row_stats = floats_on(query, {4, p.row.total});
  const Tensor column_stats = floats_on(query, {4, symmetric ? p.column.total : 0});
  const Tensor workspace = bytes_on(query, forward_workspace_bytes(p, device));
  ForwardOutputs out;
  out.row_stats = row_stats.data_ptr<float>();
  out.column_stats = column_stats.data_ptr<float>();
  out.workspace = workspace.data_ptr();
  check_launch(forward(p, device, out, c10::cuda::getCurrentCUDAStream()), "flow_infonce_forward");
  return {row_stats, column_stats};
}

std::tuple<Tensor, Tensor, Tensor> flow_infonce_backward(
    const Tensor& query, const Tensor& key, const Tensor& query_flow, const Tensor& key_flow, const Tensor& temperature,
    const Tensor& inv_bandwidth, const Tensor& query_offsets, const Tensor& key_offsets, const OptionalTensor& query_mask,
    const OptionalTensor& key_mask, std::int64_t max_query, std::int64_t max_key, std::string_view flow_kernel,
    std::string_view positives, std::string_view negatives, std::string_view scope, bool symmetric, bool bounded,
    const Tensor& row_stats, const Tensor& column_stats, const Tensor& row_grad, const Tensor& column_grad, bool need_query,
    bool need_key, bool need_temperature) {
  const c10::cuda::CUDAGuard guard(query.device());
  const Problem p =
      problem_of(query, key, query_flow, key_flow, temperature, inv_bandwidth, query_offsets, key_offsets, query_mask,
                 key_mask, max_query, max_key, flow_kernel, positives, negatives, scope, symmetric, bounded);
  const DeviceLimits device = limits_of(query);
  const auto checked = [&](const Tensor& x, const char* name, std::int64_t count, std::int64_t total) {
    TORCH_CHECK_VALUE(x.numel() == count * total, name, ": expected [", count, ", ", total, "], got ", x.sizes());
    Tensor contiguous = x.contiguous();
    check_float(contiguous, name, query);
    return contiguous;
  };
  const Tensor rows = checked(row_stats, "row_stats", 4, p.row.total);
  const Tensor row_gradient = checked(row_grad, "row_grad", 2, p.row.total);
  const Tensor columns = symmetric ? checked(column_stats, "column_stats", 4, p.column.total) : Tensor();
  const Tensor column_gradient = symmetric ? checked(column_grad, "column_grad", 2, p.column.total) : Tensor();
  BackwardInputs in;
  in.row_stats = rows.const_data_ptr<float>();
  in.row_grad = row_gradient.const_data_ptr<float>();
  if (symmetric) {
    in.column_stats = columns.const_data_ptr<float>();
    in.column_grad = column_gradient.const_data_ptr<float>();
  }
  const Tensor workspace = bytes_on(query, backward_workspace_bytes(p, device, need_query && need_key));
  // A side without rows has no launch to write it; sizes of zero need none.
  const Tensor dquery = need_query ? at::empty(query.sizes(), query.options()) : at::empty({0}, query.options());
  const Tensor dkey = need_key ? at::empty(key.sizes(), key.options()) : at::empty({0}, key.options());
  const Tensor dtemperature = need_temperature ? floats_on(query, {}) : floats_on(query, {0});
  BackwardOutputs out;
  out.workspace = workspace.data_ptr();
  if (need_query) out.row_gradient = dquery.data_ptr();
  if (need_key) out.column_gradient = dkey.data_ptr();
  if (need_temperature) out.temperature_gradient = dtemperature.data_ptr<float>();
  check_launch(backward(p, device, in, out, c10::cuda::getCurrentCUDAStream()), "flow_infonce_backward");
  return {dquery, dkey, dtemperature};
}

std::tuple<Tensor, Tensor> flow_weighted_sum(const Tensor& query_flow, const Tensor& key_flow, const Tensor& values,
                                             const Tensor& inv_bandwidth, const Tensor& query_offsets,
                                             const Tensor& key_offsets, const OptionalTensor& query_mask,
                                             const OptionalTensor& key_mask, std::int64_t max_query, std::int64_t max_key,
                                             std::string_view flow_kernel) {
  const c10::cuda::CUDAGuard guard(query_flow.device());
  TORCH_CHECK_TYPE(values.scalar_type() != at::kDouble, "values: the CUDA backend takes float32 and narrower, got ",
                   values.scalar_type(), "; use backend='reference' for float64 on a GPU");
  check_rows(values, "values", key_flow.size(0));
  const Tensor wide = values.to(at::kFloat).contiguous();
  check_float(wide, "values", query_flow);
  check_float(inv_bandwidth, "inv_bandwidth", query_flow);
  WeightedSum p;
  p.row = side_of("query", query_flow, query_offsets, query_mask, max_query);
  p.column = side_of("key", key_flow, key_offsets, key_mask, max_key);
  p.inv_bandwidth = inv_bandwidth.const_data_ptr<float>();
  p.values = wide.const_data_ptr<float>();
  p.channels = wide.size(1);
  p.frames = check_frames(query_offsets, key_offsets, inv_bandwidth);
  p.flow_width = check_flow_width(query_flow, key_flow);
  p.flow_kernel = parse_flow_kernel(flow_kernel);
  const Tensor sums = floats_on(query_flow, {p.row.total, p.channels});
  const Tensor weight_sum = floats_on(query_flow, {p.row.total});
  p.sums = sums.data_ptr<float>();
  p.weight_sum = weight_sum.data_ptr<float>();
  check_launch(weighted_sum(p, c10::cuda::getCurrentCUDAStream()), "flow_weighted_sum");
  return {sums, weight_sum};
}

}  // namespace
}  // namespace laparoflow::cuda

TORCH_LIBRARY_IMPL(laparoflow, CUDA, m) {
  m.impl("flow_infonce_forward", &laparoflow::cuda::flow_infonce_forward);
  m.impl("flow_infonce_backward", &laparoflow::cuda::flow_infonce_backward);
  m.impl("flow_weighted_sum", &laparoflow::cuda::flow_weighted_sum);
}
