"""The Triton backend as the registry sees it: operators of the namespace ``laparoflow_triton``, kernels imported on use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from laparoflow_kernels.arguments import split
from laparoflow_kernels.backends.triton.availability import unavailable as unavailable
from laparoflow_kernels.checks import check_loss_options
from laparoflow_kernels.ops import define_ops
from laparoflow_kernels.problem import PackedFrames, PairProblem, sum_arguments

MAX_DIM = {"cuda": 256, "cpu": 256}

_OPTIONS = ("flow_kernel", "positives", "negatives", "scope")
_LAUNCHES = {"flow_infonce_forward": "forward", "flow_infonce_backward": "backward", "flow_weighted_sum": "weighted_sum"}


def _checked(name: str) -> Callable[..., Any]:
    """The kernel of an operator behind a check of its options: operators can be called without the public function."""

    def kernel(*arguments: Any) -> Any:
        from laparoflow_kernels.backends.triton import launch

        problem, *rest = split(name, arguments)
        check_loss_options(**{option: getattr(problem, option) for option in _OPTIONS if option in problem._fields})
        return getattr(launch, _LAUNCHES[name])(problem, *rest)

    return kernel


_library = define_ops("laparoflow_triton")
for _name in _LAUNCHES:
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
