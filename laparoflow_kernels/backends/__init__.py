"""The registry: one predicate per backend serves the automatic choice (skip it) and the explicit one (raise its reason)."""

from __future__ import annotations

import warnings
from types import ModuleType

import torch

from laparoflow_kernels.backends import native, reference, triton_backend
from laparoflow_kernels.problem import PairProblem

MODULES: dict[str, ModuleType] = {"reference": reference, "native": native, "triton": triton_backend}
NAMES = tuple(MODULES)
AUTO_ORDER = {"cpu": ("native", "reference"), "cuda": ("native", "triton", "reference")}
DENSE_BYTES = 37
"""What ``reference`` holds for each pair, forward and backward in float32: 2.5 GB for 8,192 x 8,192 pairs, measured."""
_warned: set[str] = set()


class BackendUnavailable(RuntimeError):
    """An explicitly named backend cannot run on these tensors; the message is the reason."""


def load_backend(name: str) -> ModuleType:
    """The module of a backend. It offers ``unavailable``, ``MAX_DIM``, ``statistics``, ``weighted_sum`` and, where it has a
    one-sweep form for scalar losses, ``fused_loss``."""
    if name not in NAMES:
        raise ValueError(f"backend: expected 'auto' or one of {', '.join(map(repr, NAMES))}, got {name!r}")
    return MODULES[name]


def _machine_reason(name: str, device: str, dtype: torch.dtype) -> str | None:
    """Why the backend cannot run on this device and dtype; asked once per graph under torch.compile."""
    return MODULES[name].unavailable(torch.device(device), dtype)


# what torch.compiler.assume_constant_result sets, without its import of all of torch._dynamo (and with it Triton)
_machine_reason._dynamo_marked_constant = True  # type: ignore[attr-defined]


def why_not(name: str, device: torch.device, dtype: torch.dtype, dim: int) -> str | None:
    """The one predicate: the reason why a backend cannot take embeddings of this device, dtype and width, or None."""
    widest = MODULES[name].MAX_DIM.get(device.type)
    if widest is not None and dim > widest:
        return f"its {device.type} kernels take D up to {widest}"
    return _machine_reason(name, str(device), dtype)


def choose_backend(name: str, device: torch.device, dtype: torch.dtype, dim: int) -> ModuleType:
    """The backend module to use for embeddings of this device, dtype and width D.

    Raises:
        ValueError: unknown name.
        BackendUnavailable: a backend named explicitly cannot run, with the reason.
    """
    if name == "auto":
        for candidate in AUTO_ORDER.get(device.type, ("reference",)):
            if why_not(candidate, device, dtype, dim) is None:
                return MODULES[candidate]
    backend = load_backend(name)
    reason = why_not(name, device, dtype, dim)
    if reason is not None:
        raise BackendUnavailable(f"backend {name!r} cannot run on {device.type} {dtype}, D={dim}: {reason}")
    return backend


def warn_of_dense_pairs(problem: PairProblem) -> None:
    """Warn, once for each reason, that the automatic choice holds all pairs in memory where that takes 100 MB or more."""
    query, q, k = problem.query, problem.query_frames, problem.key_frames
    pairs = q.flow.shape[0] * (k.flow.shape[0] if problem.scope == "batch" else k.sizes.largest)
    if pairs * DENSE_BYTES < 100e6:
        return
    names = [name for name in AUTO_ORDER.get(query.device.type, ()) if name != "reference"]
    reasons = "; ".join(f"{name}: {why_not(name, query.device, query.dtype, query.shape[1])}" for name in names)
    if reasons not in _warned:
        _warned.add(reasons)
        warnings.warn(
            f"flow_infonce holds all pairs in memory, about {pairs * DENSE_BYTES / 1e9:.1f} GB here, because no fused "
            f"backend takes these tensors ({reasons}); backend='reference' says that this is meant",
            RuntimeWarning,
            stacklevel=4,
        )


def backends(dtype: torch.dtype = torch.float32) -> dict[str, dict[str, str]]:
    """Each backend's state per device: ``{"native": {"cpu": "available", "cuda": "no GPU is visible ..."}, ...}``.

    >>> backends()["reference"]["cpu"]
    'available'
    """
    return {name: {kind: _state(name, kind, dtype) for kind in ("cpu", "cuda")} for name in NAMES}


def _state(name: str, kind: str, dtype: torch.dtype) -> str:
    reason = why_not(name, torch.device(kind), dtype, 64)
    if reason is None and kind == "cuda" and not torch.cuda.is_available():
        reason = "torch sees no CUDA device"
    return reason or "available"
