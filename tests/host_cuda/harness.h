// One problem as plain memory; host_calls.py mirrors this struct field by field.
#pragma once

#include <cstdint>

extern "C" {

struct HostProblem {
  const void* query;
  const void* key;
  const float* query_flow;
  const float* key_flow;
  const unsigned char* query_mask;
  const unsigned char* key_mask;
  const std::int64_t* query_offsets;
  const std::int64_t* key_offsets;
  const float* inv_bandwidth;
  const std::int64_t* query_group;
  const std::int64_t* key_group;
  std::int64_t query_total, key_total, query_longest, key_longest;
  float temperature;
  std::int32_t frames, depth, flow_width, element, full_float, aligned;
  std::int32_t flow_kernel, positives, negatives, scope, symmetric, bounded;
  std::int32_t multiprocessors, shared_memory, path, deterministic, weight_stats;
};

const char* laparoflow_host_message();
void laparoflow_host_set_order(int order);
const char* laparoflow_host_launch(int index);
int laparoflow_host_forward(const HostProblem* problem, float* row_stats, float* column_stats);
int laparoflow_host_backward(const HostProblem* problem, const float* row_stats, const float* column_stats,
                             const float* row_grad, const float* column_grad, void* query_gradient, void* key_gradient,
                             float* temperature_gradient);
int laparoflow_host_weighted_sum(const HostProblem* problem, const float* values, std::int64_t channels, float* sums,
                                 float* weight_sum);
}
