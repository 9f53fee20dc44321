"""The compiled backend: C++ on CPU tensors, CUDA C++ on CUDA tensors, one torch.library operator dispatched by device."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from laparoflow_kernels.ops import define_ops
from laparoflow_kernels.problem import PackedFrames, PairProblem

MAX_DIM = {"cuda": 256}


def _load() -> tuple[Any, str | None]:
    """(the compiled module, None), or (None, why it could not be loaded). Loading it registers the kernels."""
    how = "`pip install --no-build-isolation .` builds it where a C++ compiler and torch are, for the torch of that moment"
    try:
        return import_module("laparoflow_kernels._C"), None
    except ModuleNotFoundError:
        return None, f"the extension laparoflow_kernels._C was not built; {how}"
    except ImportError as error:
        return None, f"the extension laparoflow_kernels._C does not load ({error}); {how}"


define_ops("laparoflow")
EXTENSION, LOAD_ERROR = _load()


def build_facts() -> dict[str, Any]:
    """Compiler, torch, CUDA and architectures of the build, and the CPU capability in use; empty without the extension."""
    return {} if EXTENSION is None else dict(EXTENSION.build_facts())


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the compiled backend cannot run there, or None."""
    if EXTENSION is None:
        return LOAD_ERROR
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"it has kernels for cpu and cuda, not for {device.type}"
    facts = build_facts()
    if not facts["cuda"]:
        return f"it was built without CUDA ({facts['no_cuda_reason']})"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if dtype == torch.float64:
        return "the CUDA kernels have no float64 form; use backend='reference'"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the CUDA kernels need compute capability 8.0 or newer"
    return None


def statistics(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Row [4, Tq] and column statistics [4, Tk] ([4, 0] when not symmetric), differentiable."""
    return torch.ops.laparoflow.flow_infonce_forward(*problem.contiguous().op_args())


def fused_loss(problem: PairProblem, reduction: str) -> tuple[Tensor, Tensor] | None:
    """(reduced loss, row statistics) with the gradients made in the same sweep, or None where that form does not apply."""
    if problem.symmetric or problem.query.device.type != "cpu" or not torch.is_grad_enabled():
        return None
    needs = [t.requires_grad for t in (problem.query, problem.key, problem.temperature)]
    if not any(needs):
        return None
    loss, row_stats, *_ = torch.ops.laparoflow.flow_infonce_fused(*problem.contiguous().op_args(), reduction, *needs)
    return loss, row_stats


def weighted_sum(
    query: PackedFrames, key: PackedFrames, values: Tensor, inv_bandwidth: Tensor, flow_kernel: str
) -> tuple[Tensor, Tensor]:
    """sum_j w_ij v_j [Tq, C] and sum_j w_ij [Tq], frame by frame."""
    return torch.ops.laparoflow.flow_weighted_sum(
        query.flow, key.flow, values.contiguous(), inv_bandwidth, query.offsets, key.offsets, query.mask, key.mask,
        query.max_size, key.max_size, flow_kernel,
    )  # fmt: skip
