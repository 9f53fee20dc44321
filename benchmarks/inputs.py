"""Inputs of a case, and their float64 truth.

A large case holds a small frame of P pixels R = N / P times over, in random order. Then

    loss = loss_small (inside), loss_small + log R (outside, one-hot);   dq = dq_small / R, dk = dk_small / R

hold exactly, so that every element of every gradient of N = 65,536 pixels is compared with float64 truth at the cost of P^2
pairs. Speed does not depend on the values.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import DTYPES, Case
from laparoflow_kernels import flow_infonce

SMALL_FRAME = 2048
# largest error of a gradient relative to its largest element, and of the loss relative to itself. Dense PyTorch of the same
# dtype shows 8e-7, 5e-4 and 4e-3 (gradients) and 1e-7, 3e-7 and 3e-7 (loss) at N = 1,024; sums of 65,536 terms get room
GRADIENT_TOLERANCE = {"float64": 1e-10, "float32": 5e-5, "float16": 3e-3, "bfloat16": 2e-2}
LOSS_TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 2e-5, "bfloat16": 1e-4}


@dataclass
class Inputs:
    """Tensors of one case. query, key [B, N, D] leaves with gradients; flows [B, N, 2] float32 in pixels; target [B, N]
    int64, the key of each query's one positive (used where the case is one-hot)."""

    query: Tensor
    key: Tensor
    query_flow: Tensor
    key_flow: Tensor
    target: Tensor


@dataclass
class Drawn:
    """The small frames and which small pixel stands at each place. query, key [B, P, D], flows [B, P, 2], places [B, N]."""

    query: Tensor
    key: Tensor
    query_flow: Tensor
    key_flow: Tensor
    query_place: Tensor
    key_place: Tensor


def small_size(pixels: int) -> int:
    """The largest divisor of ``pixels`` up to SMALL_FRAME.

    Raises:
        ValueError: a large size without one of at least 256 (the frame would repeat a handful of pixels).
    """
    size = next(p for p in range(min(pixels, SMALL_FRAME), 0, -1) if pixels % p == 0)
    if size < min(pixels, 256):
        raise ValueError(f"pixels: expected a size with a divisor from 256 to {SMALL_FRAME}, got {pixels}")
    return size


def draw(case: Case, seed: int = 0) -> Drawn:
    """Random unit embeddings in the dtype of the case, flows with a spread of 3 pixels, an order of the repeated pixels."""
    generator, size = torch.Generator().manual_seed(seed), small_size(case.pixels)

    def unit() -> Tensor:
        rows = torch.randn(case.frames, size, case.dim, generator=generator)
        return torch.nn.functional.normalize(rows, dim=-1).to(DTYPES[case.dtype])

    def places() -> Tensor:
        order = [torch.randperm(case.pixels, generator=generator) % size for _ in range(case.frames)]
        return torch.stack(order)

    def flow() -> Tensor:
        return 3 * torch.randn(case.frames, size, 2, generator=generator)

    return Drawn(unit(), unit(), flow(), flow(), places(), places())


def _gather(rows: Tensor, place: Tensor) -> Tensor:
    return torch.gather(rows, 1, place[..., None].expand(-1, -1, rows.shape[2]))


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    """The tensors of a case on its device."""
    drawn = draw(case, seed)
    # the r-th query of a small pixel has the r-th key of the same small pixel as its one positive: a bijection
    target = torch.empty_like(drawn.query_place)
    target.scatter_(1, drawn.query_place.argsort(dim=1, stable=True), drawn.key_place.argsort(dim=1, stable=True))
    query, key = _gather(drawn.query, drawn.query_place), _gather(drawn.key, drawn.key_place)
    flows = _gather(drawn.query_flow, drawn.query_place), _gather(drawn.key_flow, drawn.key_place)
    moved = [x.to(case.device) for x in (query, key, *flows, target)]
    return Inputs(
        moved[0].requires_grad_(case.needs != "key"), moved[1].requires_grad_(case.needs != "query"), *moved[2:]
    )


def flow_loss(
    case: Case, query: Tensor, key: Tensor, query_flow: Tensor, key_flow: Tensor, **more: Any
) -> Tensor | tuple[Tensor, ...]:
    """The loss of a case by this package; one-hot cases have numbers of pixels in place of the flows."""
    return flow_infonce(
        query, key, query_flow, key_flow, temperature=case.temperature, bandwidth=0.5 if case.one_hot else case.bandwidth,
        flow_kernel="tophat" if case.one_hot else "gaussian", positives=case.positives, negatives=case.negatives,
        symmetric=case.symmetric, **more,
    )  # fmt: skip


@functools.lru_cache(maxsize=1)
def truth(case: Case, seed: int = 0) -> tuple[float, Tensor, Tensor]:
    """(loss, dq [B, N, D], dk [B, N, D]) in float64 on the CPU, of the inputs as rounded to the dtype of the case."""
    drawn, size = draw(case, seed), small_size(case.pixels)
    copies = case.pixels // size
    losses, gradients = [], []
    for b in range(case.frames):
        query, key = (x[b : b + 1].double().requires_grad_() for x in (drawn.query, drawn.key))
        flows = drawn.query_flow[b : b + 1].double(), drawn.key_flow[b : b + 1].double()
        if case.one_hot:  # the pixel's number as its guide: weight 1 for the same number, 0 for all others
            number = torch.arange(size, dtype=torch.float64)[None, :, None]
            flows = number, number
        loss = flow_loss(case, query, key, *flows, backend="reference")
        assert isinstance(loss, Tensor)
        (loss / (case.frames * copies)).backward()
        losses.append(loss.item())
        gradients.append((query.grad, key.grad))
    offset = 0.0 if case.positives == "inside" else math.log(copies)
    dq, dk = (torch.cat(parts) for parts in zip(*gradients, strict=True))
    return sum(losses) / case.frames + offset, _gather(dq, drawn.query_place), _gather(dk, drawn.key_place)


def errors(case: Case, loss: float | None, dq: Tensor | None, dk: Tensor | None, seed: int = 0) -> dict[str, float]:
    """Relative errors of what is given against the truth: of the loss by its size, of a gradient by its largest element.

    A NaN or a wrong shape counts as inf.
    """
    true_loss, true_dq, true_dk = truth(case, seed)
    found = {} if loss is None else {"loss": abs(loss - true_loss) / abs(true_loss)}
    for name, got, true in (("dq", dq, true_dq), ("dk", dk, true_dk)):
        if got is not None:
            same_shape = got.shape == true.shape
            found[name] = ((got.cpu().double() - true).abs().max() / true.abs().max()).item() if same_shape else math.inf
    return {name: math.inf if math.isnan(error) else error for name, error in found.items()}


def wrong(case: Case, found: dict[str, float]) -> str | None:
    """What is wrong in words, or None."""
    limits = {name: (LOSS_TOLERANCE if name == "loss" else GRADIENT_TOLERANCE)[case.dtype] for name in found}
    beyond = (name for name, error in found.items() if error > limits[name])
    return ", ".join(f"{name} off by {found[name]:.1e} (at most {limits[name]:.0e})" for name in beyond) or None
