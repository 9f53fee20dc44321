"""Whether the Triton backend can run for a device and a dtype, in one predicate with one reason."""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version

import torch

OLDEST_TRITON = (3, 6)
MAX_DIMENSIONS = 1024  # channels D of the embeddings
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """True when the kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def triton_version() -> str | None:
    """Installed version of triton, None without it."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return version("triton")
    except PackageNotFoundError:
        import triton

        return str(triton.__version__)


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason why the Triton backend cannot run there, or None when it can.

    Args:
        device: device of the tensors.
        dtype: dtype of query and key (or of the values of a weighted sum).
    """
    installed = triton_version()
    if installed is None:
        return "the package triton is not installed"
    numbers = tuple(int(part) for part in installed.split("+")[0].split(".")[:2])
    if numbers < OLDEST_TRITON:
        return f"triton {installed} is installed, at least {OLDEST_TRITON[0]}.{OLDEST_TRITON[1]} is needed"
    if interpreted():
        if dtype not in (*DTYPES, torch.float64):
            return f"dtype {dtype} is not one of float32, float64, bfloat16, float16"
        return None
    if device.type != "cuda":
        return f"{device.type} tensors need TRITON_INTERPRET=1 in the environment (Triton compiles for GPUs only)"
    if torch.version.hip is not None:
        return "the kernels carry PTX and run on NVIDIA GPUs only"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is sm_{capability[0]}{capability[1]}, at least sm_80 is needed"
    if dtype == torch.float64:
        return "float64 has no tensor-core path in these kernels; use backend='reference'"
    if dtype not in DTYPES:
        return f"dtype {dtype} is not one of float32, bfloat16, float16"
    return None
