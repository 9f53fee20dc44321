"""Argument checks: every message names the argument, what was expected and what came.

Checks of values (temperature, bandwidth, NaN flow) read the data only where that costs no synchronisation: on CPU tensors
outside torch.compile, torch.func.vmap and FakeTensorMode. Elsewhere a NaN flow under a valid mask shows as a NaN loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from laparoflow_kernels.autograd import transforms_active
from laparoflow_kernels.problem import FLOW_KERNELS, MAX_FLOW_CHANNELS, NEGATIVES, POSITIVES, REDUCTIONS, SCOPES

# kind of a tensor -> its dtypes, in words too
DTYPES = {
    "float": ((torch.float32, torch.float64, torch.bfloat16, torch.float16), "float32, float64, bfloat16 or float16"),
    "mask": ((torch.bool,), "torch.bool (True = keep)"),
    "group": ((torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8), "int64 or a shorter one"),
}
DTYPES["weight"] = DTYPES["float"]


def check_option(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_loss_options(**given: object) -> None:
    """The options of the loss that are names: flow_kernel, positives, negatives, scope, reduction."""
    allowed = dict(
        flow_kernel=FLOW_KERNELS, positives=POSITIVES, negatives=NEGATIVES, scope=SCOPES, reduction=REDUCTIONS
    )  # fmt: skip
    for name, value in given.items():
        check_option(name, value, allowed[name])


def check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.is_nested:
        raise TypeError(f"{name}: expected a plain tensor or a list of them, got a nested tensor: pass list(x.unbind())")
    if value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {value.layout}: pass x.to_dense()")
    if not torch.compiler.is_compiling() and hasattr(value, "full_tensor"):
        raise TypeError(f"{name}: expected a plain tensor, got a DTensor: pass x.to_local(), this process's frames, or "
                        "x.full_tensor()")  # fmt: skip


def check_list(name: str, value: object) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name}: expected a torch.Tensor or a list of them, got {type(value).__name__}")


def check_dtype(name: str, value: Tensor, kind: str = "float") -> None:
    """A tensor of one of the dtypes of its kind."""
    check_tensor(name, value)
    dtypes, wanted = DTYPES[kind]
    if value.dtype not in dtypes:
        raise TypeError(f"{name}: expected dtype {wanted}, got {value.dtype}")


def check_shape(name: str, value: Tensor, expected: Sequence[int | str], sizes: dict[str, int]) -> None:
    """Match ``value.shape`` with e.g. ("B", "N", "D"); letters met before must agree, new ones enter ``sizes``."""
    wrong = value.ndim != len(expected)
    if not wrong:
        for size, want in zip(value.shape, expected, strict=True):
            wrong = wrong or size != (sizes.setdefault(want, size) if isinstance(want, str) else want)
    if wrong:
        known = ", ".join(f"{k}={v}" for k, v in sizes.items() if k in expected)
        raise ValueError(
            f"{name}: expected shape [{', '.join(map(str, expected))}]"
            + (f" with {known}" if known else "")
            + f", got {list(value.shape)}"
        )


def check_on(device: torch.device, of: str, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{name}: expected device {device} like {of}, got {tensor.device}")


def check_flow_channels(name: str, channels: int, where: str = "channels in the last dimension") -> None:
    if not 1 <= channels <= MAX_FLOW_CHANNELS:
        raise ValueError(f"{name}: expected 1 to {MAX_FLOW_CHANNELS} {where}, got {channels}")


def has_values(tensor: Tensor) -> bool:
    """False in torch.compile, torch.func.vmap and FakeTensorMode, and for meta tensors: there is nothing to read."""
    if torch.compiler.is_compiling() or transforms_active():
        return False
    return not tensor.is_meta and not hasattr(tensor, "fake_mode")


def values_readable(tensor: Tensor) -> bool:
    """True where the tensor has values and reading them needs no device synchronisation."""
    return tensor.device.type == "cpu" and has_values(tensor)


def check_positive(name: str, value: float | Tensor, least: float = 0.0) -> None:
    """A number, or a tensor whose every entry, is finite, > 0 and at least ``least`` (where ``values_readable``)."""
    if isinstance(value, Tensor):
        check_tensor(name, value)
        if not values_readable(value) or value.numel() == 0:
            return
        if not bool(((value > 0) & torch.isfinite(value)).all()):
            raise ValueError(f"{name}: expected finite values > 0, got {value.detach().flatten()[:8].tolist()}")
        value = value.min().item()
    elif isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number or a tensor, got {type(value).__name__}")
    elif not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a finite number > 0, got {value}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least:.2g}, got {value:.2g}")


def check_temperature(value: float | Tensor, least: float = 0.0) -> None:
    """``check_positive`` of a number or of a tensor of one element, whatever its shape."""
    check_positive("temperature", value, least)
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"temperature: expected a float or a tensor of one element, got {list(value.shape)}")


def check_no_gradient(name: str, value: object) -> None:
    """Nothing that would need a gradient which the loss does not have: it would stay None in silence."""
    if torch.is_grad_enabled() and isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(f"{name}: expected no gradient to be needed, as the loss has none for it; got a tensor with "
                         "requires_grad=True (pass its .detach())")  # fmt: skip


def check_flow_values(name: str, flow: Tensor, mask: Tensor | None, offsets: Tensor) -> None:
    """Packed flow [T, F] finite wherever the mask [T] keeps it; frame b begins at ``offsets[b]``."""
    if not values_readable(flow) or math.isfinite(float(flow.sum())):  # a finite sum has no NaN or infinity in it
        return
    bad = ~torch.isfinite(flow).all(-1)
    if mask is not None:
        bad = bad & mask
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        frame = int((offsets <= first).sum()) - 1
        raise ValueError(
            f"{name}: expected finite flow in source-frame pixels wherever the mask is True, got {flow[first].tolist()} at "
            f"[{frame}, {first - int(offsets[frame])}] ({int(bad.sum())} such pixels); mask out pixels whose flow is unknown"
        )
