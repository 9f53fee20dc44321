// Entry points of the CUDA backend: sizes of workspaces and launches. All work is queued on `stream`,
// nothing synchronises with the host, so a CUDA graph can capture any of it.
#pragma once

#include <cstddef>

#include "../common/arguments.h"
#include "../common/platform.cuh"

namespace laparoflow::cuda {

constexpr int kMaxDepth = 256;
constexpr int kMaxFlowWidth = 8;

/// Bytes of ForwardOutputs::workspace.
std::size_t forward_workspace_bytes(const Problem& problem, const DeviceLimits& device);

/// Pairs that the blocks of the forward, or of one pass of the backward, have room for until the last is done: what of them
/// is of the problem is how well the plan fills the device.
std::int64_t forward_capacity(const Problem& problem, const DeviceLimits& device);
std::int64_t backward_capacity(const Problem& problem, const DeviceLimits& device, bool one_pass);

/// Row statistics, and column statistics when symmetric. Returns the first launch error.
Status forward(const Problem& problem, const DeviceLimits& device, const ForwardOutputs& out, Stream stream);

/// Bytes of BackwardOutputs::workspace; `both` when both sides' gradients are wanted.
std::size_t backward_workspace_bytes(const Problem& problem, const DeviceLimits& device, bool both);

/// Those gradients whose pointer is not null.
Status backward(const Problem& problem, const DeviceLimits& device, const BackwardInputs& in, const BackwardOutputs& out,
                Stream stream);

Status weighted_sum(const WeightedSum& problem, Stream stream);

}  // namespace laparoflow::cuda
