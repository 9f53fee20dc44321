"""The registry: one predicate per backend serves the automatic choice (skip it) and the explicit one (raise its reason)."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch

NAMES = ("reference", "native", "triton")
AUTO_ORDER = {"cpu": ("native", "reference"), "cuda": ("native", "triton", "reference")}


class BackendUnavailable(RuntimeError):
    """An explicitly named backend cannot run on these tensors; the message is the reason."""


def load_backend(name: str) -> ModuleType:
    """The module of a backend. It offers ``unavailable``, ``statistics``, ``weighted_sum`` and, where it has a one-sweep
    form for scalar losses, ``fused_loss``."""
    if name not in NAMES:
        raise ValueError(f"backend: expected 'auto' or one of {', '.join(map(repr, NAMES))}, got {name!r}")
    return import_module(f"laparoflow_kernels.backends.{name}" + ("_backend" if name == "triton" else ""))


def choose_backend(name: str, device: torch.device, dtype: torch.dtype, dim: int) -> ModuleType:
    """The backend module to use for embeddings of this device, dtype and width D.

    Raises:
        ValueError: unknown name.
        BackendUnavailable: a backend named explicitly cannot run, with the reason.
    """
    if name == "auto":
        for candidate in AUTO_ORDER.get(device.type, ("reference",)):
            backend = load_backend(candidate)
            if backend.unavailable(device, dtype, dim) is None:
                return backend
    backend = load_backend(name)
    reason = backend.unavailable(device, dtype, dim)
    if reason is not None:
        raise BackendUnavailable(f"backend {name!r} cannot run on {device.type} {dtype}, D={dim}: {reason}")
    return backend


def backends(dtype: torch.dtype = torch.float32) -> dict[str, dict[str, str]]:
    """Each backend's state per device: ``{"native": {"cpu": "available", "cuda": "no GPU is visible ..."}, ...}``.

    >>> backends()["reference"]["cpu"]
    'available'
    """
    return {name: {kind: _state(name, kind, dtype) for kind in ("cpu", "cuda")} for name in NAMES}


def _state(name: str, kind: str, dtype: torch.dtype) -> str:
    backend: Any = load_backend(name)
    reason = backend.unavailable(torch.device(kind), dtype, 64)
    if reason is None and kind == "cuda" and not torch.cuda.is_available():
        reason = "torch sees no CUDA device"
    return reason or "available"
