"""The compiled backend: C++ on CPU tensors, CUDA C++ on CUDA tensors, one torch.library operator dispatched by device."""

from __future__ import annotations

import json
import re
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laparoflow_kernels import ops
from laparoflow_kernels.autograd import transforms_active
from laparoflow_kernels.problem import PairProblem

MAX_DIM = {"cuda": 256}


HOW_TO_BUILD = (
    "`pip install --no-build-isolation .` in a checkout, or of the source distribution in place of the dot, builds it, "
    "where a C++ compiler is"
)


def other_torch(built_for: dict[str, Any], version: str, cuda: str | None) -> str | None:
    """Which torch the library needs when it is not this one, or None. torch's stable interface serves every version from
    the oldest on; the CUDA part links the runtime of one major version.

    Args:
        built_for: {"oldest_torch": version, "cuda": version or None}, as the build wrote it into _C.json.
        version, cuda: torch.__version__ and torch.version.cuda of this process.

    Example:
        >>> other_torch({"oldest_torch": "2.11", "cuda": "13.2"}, "2.15.1+cu130", "13.0") is None
        True
        >>> other_torch({"oldest_torch": "2.11", "cuda": None}, "2.10.2", None)
        'torch 2.11 or newer'
    """
    oldest = built_for["oldest_torch"]
    major = built_for["cuda"] and _numbers(built_for["cuda"])[0]
    if _numbers(version) >= _numbers(oldest) and major in (None, cuda and _numbers(cuda)[0]):
        return None
    return f"torch {oldest} or newer" + (f" with CUDA {major}" if major else "")


def _numbers(version: str) -> list[int]:
    """The first two numbers of a version: [2, 15] of "2.15.0a0+git"."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def _load(package: Path) -> tuple[dict[str, Any], str | None]:
    """(facts of the build, None), or ({}, why the library could not be loaded). Loading it registers the kernels.

    A library that needs another torch is not even opened: it would end in undefined symbols, or worse, in none.
    """
    path = package / "_C.json"
    if not path.exists():
        return {}, f"the library laparoflow_kernels/_C.so was not built; {HOW_TO_BUILD}"
    facts = json.loads(path.read_text())
    wanted = other_torch(facts, torch.__version__, torch.version.cuda)
    if wanted is not None:
        here = torch.__version__ + (f" with CUDA {torch.version.cuda}" if torch.version.cuda else " without CUDA")
        reason = f"the library laparoflow_kernels/_C.so needs {wanted}, and this is torch {here}; otherwise {HOW_TO_BUILD}"
    else:
        try:
            torch.ops.load_library(package / "_C.so")
            return {**facts, "cpu_capability": torch.ops.laparoflow.cpu_capability()}, None
        except (OSError, RuntimeError, AttributeError) as error:
            reason = f"the library laparoflow_kernels/_C.so does not load ({error}); {HOW_TO_BUILD}"
    warnings.warn(f"laparoflow_kernels goes on without its native backend: {reason}", RuntimeWarning, stacklevel=2)
    return {}, reason


ops.define_ops("laparoflow")
_FACTS, LOAD_ERROR = _load(Path(__file__).parents[1])


def build_facts() -> dict[str, Any]:
    """Compiler, torch, CUDA and architectures of the build, and the CPU capability in use; empty without the library."""
    return dict(_FACTS)


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the compiled backend cannot run there, or None."""
    facts = build_facts()
    if not facts:
        return LOAD_ERROR
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"it has kernels for cpu and cuda, not for {device.type}"
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


statistics, weighted_sum = partial(ops.statistics, "laparoflow"), partial(ops.weighted_sum, "laparoflow")


def fused_loss(problem: PairProblem, reduction: str) -> tuple[Tensor, Tensor] | None:
    """(reduced loss, row statistics) with the gradients made in the same sweep, or None where that form does not apply."""
    if problem.symmetric or problem.query.device.type != "cpu" or not torch.is_grad_enabled() or transforms_active():
        return None
    needs = [t.requires_grad for t in (problem.query, problem.key, problem.temperature)]
    if not any(needs):
        return None
    loss, row_stats, *_ = torch.ops.laparoflow.flow_infonce_fused(*problem.op_args(), reduction, *needs)
    return loss, row_stats
