"""The Triton backend as the registry sees it: operators of the namespace ``laparoflow_triton``, kernels imported on use."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from laparoflow_kernels.ops import define_ops
from laparoflow_kernels.problem import PackedFrames, PairProblem

MAX_DIM = 256


def unavailable(device: torch.device, dtype: torch.dtype, dim: int) -> str | None:
    """Why Triton cannot run there, or None."""
    if dim > MAX_DIM:
        return f"the Triton kernels take D up to {MAX_DIM}"
    from laparoflow_kernels.backends import triton as kernels

    return kernels.unavailable(device, dtype)


@cache
def _register() -> None:
    from laparoflow_kernels.backends import triton as kernels

    library = define_ops("laparoflow_triton")
    for key in ("CUDA", "CPU"):  # CPU: the interpreter
        library.impl("flow_infonce_forward", kernels.forward, key)
        library.impl("flow_infonce_backward", kernels.backward, key)
        library.impl("flow_weighted_sum", kernels.weighted_sum, key)


def statistics(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Row [4, Tq] and column statistics [4, Tk] ([4, 0] when not symmetric), differentiable."""
    _register()
    return torch.ops.laparoflow_triton.flow_infonce_forward(*problem.contiguous().op_args())


def weighted_sum(
    query: PackedFrames, key: PackedFrames, values: Tensor, inv_bandwidth: Tensor, flow_kernel: str
) -> tuple[Tensor, Tensor]:
    """sum_j w_ij v_j [Tq, C] and sum_j w_ij [Tq], frame by frame."""
    _register()
    return torch.ops.laparoflow_triton.flow_weighted_sum(
        query.flow, key.flow, values.contiguous(), inv_bandwidth, query.offsets, key.offsets, query.mask, key.mask,
        query.max_size, key.max_size, flow_kernel,
    )  # fmt: skip
