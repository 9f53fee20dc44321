"""The Triton backend as the registry sees it: operators of the namespace ``laparoflow_triton``, kernels imported on use."""

from __future__ import annotations

import torch
from torch import Tensor

from laparoflow_kernels.backends import triton as kernels
from laparoflow_kernels.ops import define_ops
from laparoflow_kernels.problem import PackedFrames, PairProblem

MAX_DIM = {"cuda": 256, "cpu": 256}

unavailable = kernels.unavailable

_library = define_ops("laparoflow_triton")
for _key in ("CUDA", "CPU"):  # CPU: Triton's interpreter
    _library.impl("flow_infonce_forward", kernels.forward, _key)
    _library.impl("flow_infonce_backward", kernels.backward, _key)
    _library.impl("flow_weighted_sum", kernels.weighted_sum, _key)


def statistics(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Row [4, Tq] and column statistics [4, Tk] ([4, 0] when not symmetric), differentiable."""
    return torch.ops.laparoflow_triton.flow_infonce_forward(*problem.contiguous().op_args())


def weighted_sum(
    query: PackedFrames, key: PackedFrames, values: Tensor, inv_bandwidth: Tensor, flow_kernel: str
) -> tuple[Tensor, Tensor]:
    """sum_j w_ij v_j [Tq, C] and sum_j w_ij [Tq], frame by frame."""
    return torch.ops.laparoflow_triton.flow_weighted_sum(
        query.flow, key.flow, values.contiguous(), inv_bandwidth, query.offsets, key.offsets, query.mask, key.mask,
        query.max_size, key.max_size, flow_kernel,
    )  # fmt: skip
