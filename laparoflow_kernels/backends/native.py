"""The compiled backend: C++ on CPU tensors, CUDA C++ on CUDA tensors, one torch.library operator dispatched by device."""

from __future__ import annotations

import json
import re
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laparoflow_kernels.ops import define_ops
from laparoflow_kernels.problem import PackedFrames, PairProblem, sum_arguments

MAX_DIM = {"cuda": 256}


HOW_TO_BUILD = (
    "`pip install --no-build-isolation .` in a checkout, or of the source distribution in place of the dot, builds it for "
    "the torch that is there, where a C++ compiler is"
)


def other_torch(built_for: dict[str, Any], version: str, cuda: str | None) -> str | None:
    """Which torch an extension needs when it is not this one, or None. torch's C++ interface holds within a minor version,
    and the CUDA part links the runtime of one major version.

    Args:
        built_for: {"torch": version, "cuda": version or None}, as the build wrote it into _C.json.
        version, cuda: torch.__version__ and torch.version.cuda of this process.

    Example:
        >>> other_torch({"torch": "2.15.0+cu132", "cuda": "13.2"}, "2.15.1+cu130", "13.0") is None
        True
        >>> other_torch({"torch": "2.15.0", "cuda": None}, "2.11.0", None)
        'torch 2.15'
    """
    wanted = _first(2, built_for["torch"])
    major = built_for["cuda"] and _first(1, built_for["cuda"])
    if wanted == _first(2, version) and major in (None, cuda and _first(1, cuda)):
        return None
    return f"torch {wanted}" + (f" with CUDA {major}" if major else "")


def _first(count: int, version: str) -> str:
    """The first numbers of a version: "2.15" of "2.15.0a0+git"."""
    return ".".join(re.findall(r"\d+", version)[:count])


def _load(facts: Path) -> tuple[Any, str | None]:
    """(the compiled module, None), or (None, why it could not be loaded). Loading it registers the kernels.

    An extension of another torch is not even opened: it would end in undefined symbols, or worse, in none.
    """
    wanted = other_torch(json.loads(facts.read_text()), torch.__version__, torch.version.cuda) if facts.exists() else None
    if wanted is not None:
        here = torch.__version__ + (f" with CUDA {torch.version.cuda}" if torch.version.cuda else " without CUDA")
        reason = f"the extension laparoflow_kernels._C needs {wanted}, and this is torch {here}; otherwise {HOW_TO_BUILD}"
    else:
        try:
            return import_module("laparoflow_kernels._C"), None
        except ModuleNotFoundError:
            return None, f"the extension laparoflow_kernels._C was not built; {HOW_TO_BUILD}"
        except ImportError as error:
            reason = f"the extension laparoflow_kernels._C does not load ({error}); {HOW_TO_BUILD}"
    warnings.warn(f"laparoflow_kernels goes on without its native backend: {reason}", RuntimeWarning, stacklevel=2)
    return None, reason


define_ops("laparoflow")
EXTENSION, LOAD_ERROR = _load(Path(__file__).parents[1] / "_C.json")


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
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return "the CUDA kernels need compute capability 8.0 or newer"
    return no_code_for(facts["cuda_architectures"], capability)


@cache  # asked at every call
def no_code_for(architectures: str, capability: tuple[int, int]) -> str | None:
    """Why a build holds no code for a GPU, or None. Machine code serves its own major version from its own minor version on,
    "a" (9.0a) exactly its own GPUs; PTX everything from its own version on, through the driver's compiler.

    Args:
        architectures: those of the build, as TORCH_CUDA_ARCH_LIST has them.
        capability: (major, minor) of the GPU.

    Example:
        >>> no_code_for("8.6", (8, 9)) is None
        True
        >>> no_code_for("8.6", (8, 0))
        'it was built for 8.6 and this GPU is 8.0: build again with TORCH_CUDA_ARCH_LIST=8.0'
    """
    for major, minor, exact, ptx in re.findall(r"(\d+)\.(\d+)(a?)(\+PTX)?", architectures):
        own = (int(major), int(minor))
        later = capability > own and (ptx or capability[0] == own[0])
        if capability == own or (later and not exact):
            return None
    here = ".".join(map(str, capability))
    wanted = "9.0a" if capability == (9, 0) else here
    return f"it was built for {architectures} and this GPU is {here}: build again with TORCH_CUDA_ARCH_LIST={wanted}"


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
    return torch.ops.laparoflow.flow_weighted_sum(*sum_arguments(query, key, values, inv_bandwidth, flow_kernel))
