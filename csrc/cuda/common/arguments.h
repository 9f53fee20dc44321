// Plain arguments of the CUDA entry points: device pointers, sizes and options; no torch types.
//
// The packed layout: frames of a batch are concatenated, frame b owns rows
// offsets[b] : offsets[b + 1]. The loss is symmetric in its two sides, so both are a `Side`:
// "row" is the side whose statistics or gradient a kernel accumulates in registers, "column" the
// side it streams. Exchanging them gives the statistics or gradient of the keys.
#pragma once

#include <cstdint>

#include "../../pair_math.h"

namespace laparoflow::cuda {

enum class Element : int { kBFloat16 = 0, kHalf = 1, kFloat = 2 };

/// Which instructions the tile products use; kWarpgroup is for sm_90a and the 16-bit types alone.
enum class Path : int { kWarp = 0, kWarpgroup = 1 };

struct Side {
  const void* embedding = nullptr;        // [total, depth], unit stride
  const float* flow = nullptr;            // [total, flow_width]
  const unsigned char* mask = nullptr;    // [total], nonzero = keep; null = keep all
  const std::int64_t* offsets = nullptr;  // [frames + 1]
  const std::int64_t* group = nullptr;    // [total], of both sides or of none: pairs of equal groups count nowhere
  std::int64_t total = 0;                 // rows over all frames
  std::int64_t longest = 0;               // rows of the largest frame
};

constexpr int kGroupWords = 2;  // of 32 bits, behind the flow of a pixel in shared memory

struct Problem : PairOptions {
  Side row;
  Side column;
  const float* temperature = nullptr;    // [1]
  const float* inv_bandwidth = nullptr;  // [frames]
  int frames = 0;
  int depth = 0;       // D
  int flow_width = 0;  // F, and kGroupWords more where pixels have groups
  Element element = Element::kFloat;
  bool aligned = false;  // rows of both embeddings start at multiples of 16 bytes
  Path path = Path::kWarp;
  bool folded = false;  // of a backward: folds_coefficients
};

/// What the launcher knows of the device.
struct DeviceLimits {
  int multiprocessors = 1;
  int shared_memory = 48 * 1024;  // bytes one block may ask for
};

/// Statistics of one side: rows 0..3 of a [4, total] array (lse, weight sum, positive, weight log sum).
struct ForwardOutputs {
  float* row_stats = nullptr;
  float* column_stats = nullptr;  // only when symmetric
  void* workspace = nullptr;      // forward_workspace_bytes
};

struct BackwardInputs {
  const float* row_stats = nullptr;
  const float* column_stats = nullptr;  // null when not symmetric
  const float* row_grad = nullptr;      // [2, row.total]: dL/dlse, dL/dpositive
  const float* column_grad = nullptr;   // [2, column.total] or null
};

struct BackwardOutputs {
  void* row_gradient = nullptr;           // [row.total, depth] or null
  void* column_gradient = nullptr;        // [column.total, depth] or null
  float* temperature_gradient = nullptr;  // [1] or null
  void* workspace = nullptr;              // backward_workspace_bytes
};

/// sum_j w_ij v_j and sum_j w_ij; of the sides flows, masks and offsets are used.
struct WeightedSum {
  Side row, column;
  const float* inv_bandwidth = nullptr;
  const float* values = nullptr;  // [column.total, channels]
  std::int64_t channels = 0;
  int frames = 0, flow_width = 0;
  FlowKernel flow_kernel = FlowKernel::kGaussian;
  float* sums = nullptr;        // [row.total, channels]
  float* weight_sum = nullptr;  // [row.total]
};

}  // namespace laparoflow::cuda
