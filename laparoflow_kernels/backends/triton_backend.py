"""The Triton backend as the registry sees it: operators of the namespace ``laparoflow_triton``, kernels imported on use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from laparoflow_kernels.arguments import split
from laparoflow_kernels.backends.triton.availability import MAX_DIMENSIONS, unavailable
from laparoflow_kernels.checks import check_loss_options
from laparoflow_kernels.ops import define_ops
from laparoflow_kernels.problem import PackedFrames, PairProblem, sum_arguments

__all__ = ["MAX_DIM", "statistics", "unavailable", "weighted_sum"]

MAX_DIM = {"cuda": MAX_DIMENSIONS, "cpu": MAX_DIMENSIONS}

_OPTIONS = ("flow_kernel", "positives", "negatives", "scope")
# the function of launch.py that runs an operator
_KERNELS = {"flow_infonce_forward": "forward", "flow_infonce_backward": "backward", "flow_weighted_sum": "weighted_sum"}


def _checked(name: str) -> Callable[..., Any]:
    """The kernel of an operator behind a check of its options: operators can be called without the public function."""

    def kernel(*arguments: Any) -> Any:
        from laparoflow_kernels.backends.triton import launch

        groups = split(name, arguments)
        check_loss_options(**{option: getattr(groups[0], option) for option in _OPTIONS if option in groups[0]._fields})
        return getattr(launch, _KERNELS[name])(*groups)

    return kernel


_library = define_ops("laparoflow_triton")
for _name in _KERNELS:
    for _key in ("CUDA", "CPU"):  # CPU: Triton's interpreter
        _library.impl(_name, _checked(_name), _key)


def statistics(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Row [4, Tq] and column statistics [4, Tk] ([4, 0] when not symmetric), differentiable."""
    return torch.ops.laparoflow_triton.flow_infonce_forward(*problem.contiguous().op_args())


def weighted_sum(
    query: PackedFrames, key: PackedFrames, values: Tensor, inv_bandwidth: Tensor, flow_kernel: str
) -> tuple[Tensor, Tensor]:
    """sum_j w_ij v_j [Tq, C] and sum_j w_ij [Tq], frame by frame."""
    return torch.ops.laparoflow_triton.flow_weighted_sum(*sum_arguments(query, key, values, inv_bandwidth, flow_kernel))
