// The C interface of the host-executed kernels: plain pointers, for ctypes and for sanitized programs.
// Workspaces have exactly the size asked for and are filled with NaN.
#include "harness.h"

#include <cstdlib>
#include <cstring>

#include "cuda/host/entry.h"

using namespace laparoflow;
using namespace laparoflow::cuda;

namespace {

Problem problem_of(const HostProblem& h) {
  Problem p;
  p.row = {h.query, h.query_flow, h.query_mask, h.query_offsets, h.query_group, h.query_total, h.query_longest};
  p.column = {h.key, h.key_flow, h.key_mask, h.key_offsets, h.key_group, h.key_total, h.key_longest};
  p.temperature = &h.temperature;
  p.inv_bandwidth = h.inv_bandwidth;
  p.frames = h.frames;
  p.depth = h.depth;
  p.flow_width = h.flow_width + (h.query_group != nullptr ? kGroupWords : 0);
  p.element = static_cast<Element>(h.element);
  p.full_float = h.full_float != 0;
  p.aligned = h.aligned != 0;
  p.flow_kernel = static_cast<FlowKernel>(h.flow_kernel);
  p.positives = static_cast<Positives>(h.positives);
  p.negatives = static_cast<Negatives>(h.negatives);
  p.scope = static_cast<Scope>(h.scope);
  p.symmetric = h.symmetric != 0;
  p.bounded = h.bounded != 0;
  p.deterministic = h.deterministic != 0;
  p.weight_stats = h.weight_stats != 0;
  p.path = static_cast<Path>(h.path);
  return p;
}

struct Workspace {
  void* memory;
  explicit Workspace(std::size_t bytes) : memory(std::malloc(bytes > 0 ? bytes : 1)) { std::memset(memory, 0xff, bytes); }
  ~Workspace() { std::free(memory); }
};

DeviceLimits limits_of(const HostProblem& h) { return {h.multiprocessors, h.shared_memory}; }

}  // namespace

extern "C" {

const char* laparoflow_host_message() { return simulator::message(); }
void laparoflow_host_set_order(int order) { simulator::set_order(order); }

/// The index-th launch since the last call with a negative index, which forgets them all; null behind the last.
const char* laparoflow_host_launch(int index) {
  if (index < 0) simulator::launches.clear();
  return index >= 0 && index < static_cast<int>(simulator::launches.size()) ? simulator::launches[index] : nullptr;
}

int laparoflow_host_forward(const HostProblem* h, float* row_stats, float* column_stats) {
  const Problem p = problem_of(*h);
  const DeviceLimits device = limits_of(*h);
  const Workspace workspace(forward_workspace_bytes(p, device));
  return forward(p, device, {row_stats, column_stats, workspace.memory}, nullptr);
}

int laparoflow_host_backward(const HostProblem* h, const float* row_stats, const float* column_stats, const float* row_grad,
                             const float* column_grad, void* query_gradient, void* key_gradient,
                             float* temperature_gradient) {
  const Problem p = problem_of(*h);
  const DeviceLimits device = limits_of(*h);
  const Workspace workspace(backward_workspace_bytes(p, device, query_gradient != nullptr && key_gradient != nullptr));
  return backward(p, device, {row_stats, column_stats, row_grad, column_grad},
                  {query_gradient, key_gradient, temperature_gradient, workspace.memory}, nullptr);
}

/// Pairs that the blocks have room for: of the forward, or (1, 2) of the backward in one pass or one of two.
std::int64_t laparoflow_host_capacity(const HostProblem* h, int backward) {
  const Problem p = problem_of(*h);
  return backward == 0 ? forward_capacity(p, limits_of(*h)) : backward_capacity(p, limits_of(*h), backward == 1);
}

int laparoflow_host_weighted_sum(const HostProblem* h, const float* values, std::int64_t channels, float* sums,
                                 float* weight_sum) {
  const Problem p = problem_of(*h);
  WeightedSum w;
  w.row = p.row;
  w.column = p.column;
  w.inv_bandwidth = p.inv_bandwidth;
  w.values = values;
  w.channels = channels;
  w.frames = p.frames;
  w.flow_width = h->flow_width;
  w.flow_kernel = p.flow_kernel;
  w.sums = sums;
  w.weight_sum = weight_sum;
  return weighted_sum(w, nullptr);
}
}
