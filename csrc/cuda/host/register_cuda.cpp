// The CUDA side of the `laparoflow` operators: checks, device guard, current stream, workspace from
// the caching allocator, launch. No host synchronisation, so a CUDA graph can capture every call.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <cstdlib>
#include <string_view>
#include <vector>

#include "../../arguments.h"
#include "entry.h"

// In every CUDA build of torch; its header declares it where USE_CUDA is defined alone.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace laparoflow::cuda {
namespace {

void check_cuda(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(status));
}

cudaStream_t stream_of(const Tensor& x) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

Element element_of(const Tensor& query) {
  switch (query.scalar_type()) {
    case ScalarType::BFloat16:
      return Element::kBFloat16;
    case ScalarType::Half:
      return Element::kHalf;
    default:
      check(query.scalar_type() == ScalarType::Float, "query: the CUDA backend takes bfloat16, float16 or float32, got ",
            name_of(query.scalar_type()), "; use backend='reference' for float64 on a GPU");
      return Element::kFloat;
  }
}

void check_tensor(const Tensor& x, const std::string& name, ScalarType type, const Tensor& like) {
  check(x.scalar_type() == type, name, ": expected ", name_of(type), ", got ", name_of(x.scalar_type()));
  check(same_device(x, like), name, ": expected on the device of the embeddings");
  check(x.is_contiguous(), name, ": expected contiguous");
}

void check_float(const Tensor& x, const std::string& name, const Tensor& like) {
  check_tensor(x, name, ScalarType::Float, like);
}

void check_rows(const Tensor& x, const char* name, std::int64_t rows) {
  check(x.dim() == 2 && x.size(0) == rows, name, ": expected [", rows, ", width], got ", shape_of(x));
}

Side side_of(const std::string& name, const Tensor& flow, const Tensor& offsets, const OptionalTensor& mask,
             std::int64_t longest, const OptionalTensor& group = {}) {
  check_float(flow, name + "_flow", flow);
  check(flow.dim() == 2, name, "_flow: expected [total, F], got ", shape_of(flow));
  check_tensor(offsets, name + "_offsets", ScalarType::Long, flow);
  check(offsets.dim() == 1, name, "_offsets: expected [B + 1], got ", shape_of(offsets));
  Side side;
  side.flow = flow.const_data_ptr<float>();
  side.offsets = offsets.const_data_ptr<std::int64_t>();
  side.total = flow.size(0);
  side.longest = longest;
  static const char* const checks = std::getenv("LAPAROFLOW_CUDA_CHECK");
  if (checks != nullptr && std::string_view(checks) == "1") {
    std::vector<std::int64_t> edges(offsets.numel());  // waits for the device
    check_cuda(cudaMemcpy(edges.data(), side.offsets, edges.size() * sizeof(edges[0]), cudaMemcpyDeviceToHost));
    check_offsets(name.c_str(), edges.data(), edges.size(), side.total, longest);
  }
  const auto per_pixel = [&](const OptionalTensor& x, const char* part, ScalarType type) -> const void* {
    if (!x) return nullptr;
    check_tensor(*x, name + part, type, flow);
    check(x->numel() == side.total, name, part, ": expected [", side.total, "], got ", shape_of(*x));
    return x->const_data_ptr();
  };
  side.mask = static_cast<const unsigned char*>(per_pixel(mask, "_mask", ScalarType::Bool));
  side.group = static_cast<const std::int64_t*>(per_pixel(group, "_group", ScalarType::Long));
  return side;
}

int check_flow_width(const Tensor& query_flow, const Tensor& key_flow) {
  check(query_flow.size(1) >= 1 && query_flow.size(1) <= kMaxFlowWidth, "query_flow: expected 1 to ", kMaxFlowWidth,
        " components, got ", query_flow.size(1));
  check(key_flow.size(1) == query_flow.size(1), "key_flow: expected ", query_flow.size(1),
        " components like query_flow, got ", key_flow.size(1));
  return static_cast<int>(query_flow.size(1));
}

int check_frames(const Tensor& query_offsets, const Tensor& key_offsets, const Tensor& inv_bandwidth) {
  const std::int64_t frames = inv_bandwidth.numel();
  check(query_offsets.numel() == frames + 1 && key_offsets.numel() == frames + 1, "offsets: expected ", frames + 1,
        " entries for ", frames, " frames, got ", query_offsets.numel(), " and ", key_offsets.numel());
  check(frames < (std::int64_t{1} << 31), "inv_bandwidth: too many frames: ", frames);
  return static_cast<int>(frames);
}

bool aligned_rows(const Tensor& x) {
  return reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0 && x.size(1) * x.element_size() % 16 == 0;
}

DeviceLimits limits_of(const Tensor& x) {
  DeviceLimits limits;
  const int device = x.get_device_index();
  check_cuda(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  check_cuda(cudaDeviceGetAttribute(&limits.shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return limits;
}

/// The path of 16-bit inputs: sm90a where the GPU is of compute capability 9.0 and the build holds 9.0a, else sm80;
/// LAPAROFLOW_CUDA_PATH=sm80 or sm90a insists on one. Groups are sm80's.
Path path_of(const Tensor& query, bool grouped) {
  static const char* const setting = std::getenv("LAPAROFLOW_CUDA_PATH");
  const std::string_view wish = setting == nullptr ? "" : setting;
  check(wish.empty() || wish == "sm80" || wish == "sm90a", "LAPAROFLOW_CUDA_PATH: expected sm80 or sm90a, got '", wish, "'");
  check(!grouped || wish != "sm90a", "LAPAROFLOW_CUDA_PATH=sm90a: takes no query_group, key_group and exclude_self");
  if (wish == "sm80" || grouped || query.scalar_type() == ScalarType::Float) return Path::kWarp;
  constexpr bool kBuilt = std::string_view(LF_CUDA_ARCHITECTURES).find("9.0a") != std::string_view::npos;
  int major = 0, minor = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, query.get_device_index()));
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, query.get_device_index()));
  const bool runs = kBuilt && major == 9 && minor == 0;
  check(runs || wish.empty(), "LAPAROFLOW_CUDA_PATH=sm90a: needs a GPU of compute capability 9.0, got ", major, ".", minor,
        ", and a build for 9.0a, got ", LF_CUDA_ARCHITECTURES);
  return runs ? Path::kWarpgroup : Path::kWarp;
}

Problem problem_of(const PairArguments& args) {
  const Tensor &query = args.query, &key = args.key;
  Problem p{args};
  p.element = element_of(query);
  check(key.scalar_type() == query.scalar_type(), "key: expected ", name_of(query.scalar_type()), " like query, got ",
        name_of(key.scalar_type()));
  check_rows(query, "query", args.query_flow.size(0));
  check_rows(key, "key", args.key_flow.size(0));
  check(query.is_contiguous() && key.is_contiguous(), "query, key: expected contiguous");
  check(same_device(key, query) && same_device(args.query_flow, query) && same_device(args.key_flow, query),
        "key and flows: expected on the device of query");
  check(query.size(1) >= 1 && query.size(1) <= kMaxDepth, "query: the CUDA backend takes 1 to ", kMaxDepth,
        " channels, got ", query.size(1));
  check(key.size(1) == query.size(1), "key: expected ", query.size(1), " channels like query, got ", key.size(1));
  const bool grouped = args.query_group.has_value();
  check(grouped == args.key_group.has_value(), "key_group: expected where query_group is, and not else");
  check_float(args.temperature, "temperature", query);
  check(args.temperature.numel() == 1, "temperature: expected one number, got ", shape_of(args.temperature));
  check_float(args.inv_bandwidth, "inv_bandwidth", query);
  p.row = side_of("query", args.query_flow, args.query_offsets, args.query_mask, args.max_query, args.query_group);
  p.column = side_of("key", args.key_flow, args.key_offsets, args.key_mask, args.max_key, args.key_group);
  p.row.embedding = query.const_data_ptr();
  p.column.embedding = key.const_data_ptr();
  p.temperature = args.temperature.const_data_ptr<float>();
  p.inv_bandwidth = args.inv_bandwidth.const_data_ptr<float>();
  p.frames = check_frames(args.query_offsets, args.key_offsets, args.inv_bandwidth);
  p.depth = static_cast<int>(query.size(1));
  p.flow_width = check_flow_width(args.query_flow, args.key_flow) + (grouped ? kGroupWords : 0);
  p.aligned = aligned_rows(query) && aligned_rows(key);
  p.path = path_of(query, grouped);
  return p;
}

Tensor bytes_on(const Tensor& like, std::size_t bytes) {
  return empty_on(like, {static_cast<std::int64_t>(bytes)}, ScalarType::Byte);
}

Tensor floats_on(const Tensor& like, std::initializer_list<std::int64_t> sizes) {
  return empty_on(like, sizes, ScalarType::Float);
}

void check_launch(Status status, const char* name) {
  check(status != kDoesNotFit, name, ": no tile fits this device's shared memory");
  check(status != kTooManyBlocks, name, ": more tiles than a grid has blocks");
  check_cuda(static_cast<cudaError_t>(status));
}

std::tuple<Tensor, Tensor> flow_infonce_forward(const PairArguments& args) {
  const torch::stable::accelerator::DeviceGuard guard(args.query.get_device_index());
  const Problem p = problem_of(args);
  const DeviceLimits device = limits_of(args.query);
  const Tensor row_stats = floats_on(args.query, {4, p.row.total});
  const Tensor column_stats = floats_on(args.query, {4, p.symmetric ? p.column.total : 0});
  const Tensor workspace = bytes_on(args.query, forward_workspace_bytes(p, device));
  ForwardOutputs out;
  out.row_stats = row_stats.mutable_data_ptr<float>();
  out.column_stats = column_stats.mutable_data_ptr<float>();
  out.workspace = workspace.mutable_data_ptr();
  check_launch(forward(p, device, out, stream_of(args.query)), "flow_infonce_forward");
  return {row_stats, column_stats};
}

std::tuple<Tensor, Tensor, Tensor> flow_infonce_backward(const PairArguments& args, const StatsArguments& given,
                                                         const Needs& need) {
  const Tensor& query = args.query;
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const Problem p = problem_of(args);
  const DeviceLimits device = limits_of(query);
  const auto checked = [&](const Tensor& x, const char* name, std::int64_t count, std::int64_t total) {
    check(x.numel() == count * total, name, ": expected [", count, ", ", total, "], got ", shape_of(x));
    const Tensor flat = row_major(x);
    check_float(flat, name, query);
    return flat;
  };
  const std::int64_t columns = p.symmetric ? p.column.total : 0;
  const Tensor row_stats = checked(given.row_stats, "row_stats", 4, p.row.total);
  const Tensor row_grad = checked(given.row_grad, "row_grad", 2, p.row.total);
  const Tensor column_stats = p.symmetric ? checked(given.column_stats, "column_stats", 4, columns) : row_stats;
  const Tensor column_grad = p.symmetric ? checked(given.column_grad, "column_grad", 2, columns) : row_grad;
  BackwardInputs in;
  in.row_stats = row_stats.const_data_ptr<float>();
  in.row_grad = row_grad.const_data_ptr<float>();
  if (p.symmetric) {
    in.column_stats = column_stats.const_data_ptr<float>();
    in.column_grad = column_grad.const_data_ptr<float>();
  }
  const Tensor workspace = bytes_on(query, backward_workspace_bytes(p, device, need.query && need.key));
  // A side without rows has no launch to write it; sizes of zero need none.
  const auto gradient_of = [&](const Tensor& x, bool needed) {
    return needed ? empty_on(x, {x.size(0), x.size(1)}, x.scalar_type()) : empty_on(x, {0}, x.scalar_type());
  };
  const Tensor dquery = gradient_of(query, need.query), dkey = gradient_of(args.key, need.key);
  const Tensor dtemperature = need.temperature ? floats_on(query, {}) : floats_on(query, {0});
  BackwardOutputs out;
  out.workspace = workspace.mutable_data_ptr();
  if (need.query) out.row_gradient = dquery.mutable_data_ptr();
  if (need.key) out.column_gradient = dkey.mutable_data_ptr();
  if (need.temperature) out.temperature_gradient = dtemperature.mutable_data_ptr<float>();
  check_launch(backward(p, device, in, out, stream_of(query)), "flow_infonce_backward");
  return {dquery, dkey, dtemperature};
}

std::tuple<Tensor, Tensor> flow_weighted_sum(const SumArguments& args) {
  const Tensor &query_flow = args.query_flow, &values = args.values;
  const torch::stable::accelerator::DeviceGuard guard(query_flow.get_device_index());
  check(values.scalar_type() != ScalarType::Double, "values: the CUDA backend takes float32 and narrower, got float64",
        "; use backend='reference' for float64 on a GPU");
  check_rows(values, "values", args.key_flow.size(0));
  const Tensor wide = row_major(torch::stable::to(values, ScalarType::Float));
  check_float(wide, "values", query_flow);
  check_float(args.inv_bandwidth, "inv_bandwidth", query_flow);
  WeightedSum p;
  p.row = side_of("query", query_flow, args.query_offsets, args.query_mask, args.max_query);
  p.column = side_of("key", args.key_flow, args.key_offsets, args.key_mask, args.max_key);
  p.inv_bandwidth = args.inv_bandwidth.const_data_ptr<float>();
  p.values = wide.const_data_ptr<float>();
  p.channels = wide.size(1);
  p.frames = check_frames(args.query_offsets, args.key_offsets, args.inv_bandwidth);
  p.flow_width = check_flow_width(query_flow, args.key_flow);
  p.flow_kernel = args.flow_kernel;
  const Tensor sums = floats_on(query_flow, {p.row.total, p.channels});
  const Tensor weight_sum = floats_on(query_flow, {p.row.total});
  p.sums = sums.mutable_data_ptr<float>();
  p.weight_sum = weight_sum.mutable_data_ptr<float>();
  check_launch(weighted_sum(p, stream_of(query_flow)), "flow_weighted_sum");
  return {sums, weight_sum};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(laparoflow, CUDA, m) {
  m.impl("flow_infonce_forward", boxed<&flow_infonce_forward>);
  m.impl("flow_infonce_backward", boxed<&flow_infonce_backward>);
  m.impl("flow_weighted_sum", boxed<&flow_weighted_sum>);
}

}  // namespace laparoflow::cuda
