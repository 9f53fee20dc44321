"""Inputs of a case, and their float64 truth.

A large case holds a small frame of P pixels R = N / P times over, in random order. Then

    loss = loss_small (inside), loss_small + log R (outside, one-hot);   dq = dq_small / R, dk = dk_small / R

hold exactly, so that every element of every gradient of N = 65,536 pixels is compared with float64 truth at the cost of P^2
pairs. Speed does not depend on the values.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.case import DTYPES, Case
from laparoflow_kernels import flow_infonce

SMALL_FRAME = 2048
# largest error of a gradient relative to its largest element, and of the loss relative to itself. Dense PyTorch of the same
# dtype shows 8e-7, 5e-4 and 4e-3 (gradients) and 1e-7, 3e-7 and 3e-7 (loss) at N = 1,024; sums of 65,536 terms get room
GRADIENT_TOLERANCE = {"float64": 1e-10, "float32": 5e-5, "float16": 3e-3, "bfloat16": 2e-2}
LOSS_TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 2e-5, "bfloat16": 1e-4}


class Inputs(NamedTuple):
    """Tensors of one case: query, key [B, N, D] leaves with gradients; flows [B, N, 2] float32 in pixels, of a one-hot case
    the number [B, N, 1] of each pixel's own key; target [B, N] int64, the key of each query's one positive there."""

    query: Tensor
    key: Tensor
    query_flow: Tensor
    key_flow: Tensor
    target: Tensor


def small_size(pixels: int) -> int:
    """The largest divisor of ``pixels`` up to SMALL_FRAME.

    Raises:
        ValueError: a large size without one of at least 256 (the frame would repeat a handful of pixels).
    """
    size = next(p for p in range(min(pixels, SMALL_FRAME), 0, -1) if pixels % p == 0)
    if size < min(pixels, 256):
        raise ValueError(f"pixels: expected a size with a divisor from 256 to {SMALL_FRAME}, got {pixels}")
    return size


def draw(case: Case) -> tuple[list[Tensor], Tensor, Tensor]:
    """The small frames: query, key [B, P, D], unit vectors in the dtype of the case, and their flows [B, P, 2] with a spread
    of 3 pixels; and the small pixel that stands at each place [B, N] of the queries and of the keys, in random order."""
    generator, size = torch.Generator().manual_seed(0), small_size(case.pixels)
    rows = [torch.randn(case.frames, size, case.dim, generator=generator) for _ in range(2)]
    units = [torch.nn.functional.normalize(x, dim=-1).to(DTYPES[case.dtype]) for x in rows]
    flows = [3 * torch.randn(case.frames, size, 2, generator=generator) for _ in range(2)]

    def places() -> Tensor:
        order = [torch.randperm(case.pixels, generator=generator) % size for _ in range(case.frames)]
        return torch.stack(order)

    return [*units, *flows], places(), places()


def _gather(rows: Tensor, place: Tensor) -> Tensor:
    return torch.gather(rows, 1, place[..., None].expand(-1, -1, rows.shape[2]))


def make_inputs(case: Case) -> Inputs:
    """The tensors of a case on its device."""
    small, *places = draw(case)
    # the r-th query of a small pixel has the r-th key of the same small pixel as its one positive: a bijection
    target = torch.empty_like(places[0])
    target.scatter_(1, *(place.argsort(dim=1, stable=True) for place in places))
    query, key, *flows = (_gather(x, place) for x, place in zip(small, places * 2, strict=True))
    if case.one_hot:  # weight 1 for the same number, 0 for all others
        flows = [number.float()[..., None] for number in (target, torch.arange(case.pixels).expand_as(target))]
    found = Inputs(*(x.to(case.device) for x in (query, key, *flows, target)))
    found.query.requires_grad_(case.needs != "key")
    found.key.requires_grad_(case.needs != "query")
    return found


def flow_loss(case: Case, query: Tensor, key: Tensor, query_flow: Tensor, key_flow: Tensor, **more: Any) -> Any:
    """The loss of a case by this package; one-hot cases have numbers of pixels in place of the flows."""
    return flow_infonce(
        query, key, query_flow, key_flow, temperature=case.temperature, bandwidth=0.5 if case.one_hot else case.bandwidth,
        flow_kernel="tophat" if case.one_hot else "gaussian", positives=case.positives, negatives=case.negatives,
        symmetric=case.symmetric, **more,
    )  # fmt: skip


@functools.lru_cache(maxsize=1)
def truth(case: Case) -> tuple[float, Tensor, Tensor]:
    """(loss, dq [B, N, D], dk [B, N, D]) in float64 on the CPU, of the inputs as rounded to the dtype of the case."""
    small, *places = draw(case)
    size = small[0].shape[1]
    copies = case.pixels // size
    losses, gradients = [], []
    for query, key, *flows in zip(*(x.double().split(1) for x in small), strict=True):
        if case.one_hot:
            flows = [torch.arange(size, dtype=torch.float64)[None, :, None]] * 2
        loss = flow_loss(case, query.requires_grad_(), key.requires_grad_(), *flows, backend="reference")
        (loss / (case.frames * copies)).backward()
        losses.append(loss.item())
        gradients.append((query.grad, key.grad))
    offset = 0.0 if case.positives == "inside" else math.log(copies)
    dq, dk = (_gather(torch.cat(parts), place) for parts, place in zip(zip(*gradients, strict=True), places, strict=True))
    return sum(losses) / case.frames + offset, dq, dk


def judge(
    case: Case, part: str, loss: float | None, dq: Tensor | None, dk: Tensor | None
) -> tuple[dict[str, float], str | None]:
    """Relative errors of what a part made (None for what it did not make), and what is wrong in words, or None.

    The error of the loss is relative to its size, that of a gradient to its largest element; a NaN or a wrong shape counts
    as inf. It is wrong, too, that a gradient is missing which was asked for, or is there and was not.
    """
    true_loss, *true_gradients = truth(case)
    found, reasons = {} if loss is None else {"loss": abs(loss - true_loss) / abs(true_loss)}, []
    for side, name, got, true in zip(("query", "key"), ("dq", "dk"), (dq, dk), true_gradients, strict=True):
        asked = part != "forward" and case.needs in ("both", side)
        if asked != (got is not None):
            reasons.append(f"the gradient of {side} was {'asked for and not' if asked else 'not asked for and'} made")
        if got is not None:
            same_shape = got.shape == true.shape
            found[name] = ((got.cpu().double() - true).abs().max() / true.abs().max()).item() if same_shape else math.inf
    found = {name: math.inf if math.isnan(error) else error for name, error in found.items()}
    for name, error in found.items():
        limit = (LOSS_TOLERANCE if name == "loss" else GRADIENT_TOLERANCE)[case.dtype]
        if error > limit:
            reasons.append(f"{name} off by {error:.1e} (at most {limit:.0e})")
    return found, ", ".join(reasons) or None
