"""Problems for the Triton kernels, and the rule by which a result is right.

The rule of tests/numerics.py, for the operators themselves (statistics, bounded logits, frames of different sizes): truth is
the reference backend in float64, and a fused result may be off by twice the error of the reference run in the same dtype
plus ROUNDINGS of the quantity's own size, in its largest and in its mean error. dtemperature is a scalar: SCALAR_ROUNDINGS,
and the root mean square over several rotations of the embeddings.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laparoflow_kernels.backends import reference
from laparoflow_kernels.backends import triton as kernels
from laparoflow_kernels.problem import PackedFrames, PairProblem, accumulator_dtype

ROUNDINGS = 4
SCALAR_ROUNDINGS = 16


def offsets(sizes: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(sizes)])


def problem(
    query_sizes: tuple[int, ...] = (70, 33),
    key_sizes: tuple[int, ...] = (65, 90),
    dim: int = 20,
    flow_dim: int = 2,
    dtype: torch.dtype = torch.float32,
    temperature: float = 0.1,
    masked: bool = False,
    seed: int = 0,
    spread: float = 1.5,
    offset: float = 0.0,
    **options: object,
) -> PairProblem:
    """Random unit embeddings and flows; ``masked`` drops a third of the pixels and fills them with NaN."""
    generator = torch.Generator().manual_seed(seed)
    accumulator = accumulator_dtype(dtype)

    def side(sizes: tuple[int, ...]) -> tuple[Tensor, PackedFrames]:
        total = sum(sizes)
        rows = torch.randn(total, dim, generator=generator, dtype=torch.float64)
        rows = torch.nn.functional.normalize(rows, dim=1).to(dtype)
        flow = (torch.randn(total, flow_dim, generator=generator, dtype=torch.float64) * spread + offset).to(accumulator)
        mask = None
        if masked:
            mask = torch.rand(total, generator=generator) > 0.3
            rows[~mask], flow[~mask] = float("nan"), float("nan")
        return rows, PackedFrames(flow, mask, offsets(sizes), sizes, max(sizes, default=0))

    query, query_frames = side(query_sizes)
    key, key_frames = side(key_sizes)
    choices: dict = dict(
        flow_kernel="gaussian", positives="outside", negatives="all", scope="frame", symmetric=False, bounded=True
    )
    choices.update(options)
    return PairProblem(
        query, key, query_frames, key_frames, torch.tensor(temperature, dtype=accumulator),
        torch.linspace(1.0, 1.5, len(query_sizes), dtype=torch.float64).to(accumulator), **choices,
    )  # fmt: skip


def in_float64(p: PairProblem) -> PairProblem:
    return replace(
        p, query=p.query.double(), key=p.key.double(), temperature=p.temperature.double(),
        inv_bandwidth=p.inv_bandwidth.double(),
        query_frames=p.query_frames._replace(flow=p.query_frames.flow.double()),
        key_frames=p.key_frames._replace(flow=p.key_frames.flow.double()),
    )  # fmt: skip


@dataclass
class Outcome:
    """Statistics and gradients of one backend."""

    row_stats: Tensor
    column_stats: Tensor
    dquery: Tensor
    dkey: Tensor
    dtemperature: Tensor


def upstream(p: PairProblem, stats: Tensor) -> Tensor:
    """dL/d(lse, positive) [2, T] of the mean loss with uneven row weights, 0 where a row is not valid."""
    total = stats.shape[1]
    valid = torch.isfinite(stats[0]) & torch.isfinite(stats[2]) & (stats[1] > 0)
    weight = torch.linspace(0.5, 1.5, max(total, 1), dtype=torch.float64)[:total] / max(total, 1) * valid
    return torch.stack([weight, -weight])


def by_reference(p: PairProblem) -> Outcome:
    query, key, temperature = (t.detach().clone().requires_grad_() for t in (p.query, p.key, p.temperature))
    rows, columns = reference.statistics(replace(p, query=query, key=key, temperature=temperature))
    loss = torch.zeros((), dtype=rows.dtype)
    for stats in (rows, columns) if p.symmetric else (rows,):
        gradient = upstream(p, stats.detach())
        used = gradient[0] > 0
        loss = loss + (stats[[0, 2]][:, used] * gradient[:, used].to(stats.dtype)).sum()
    if loss.requires_grad:
        loss.backward()
    gradients = (torch.zeros_like(t) if t.grad is None else t.grad for t in (query, key, temperature))
    # a row without a positive has the logarithm of 0 on its way: PyTorch's gradient there is 0 times infinity
    return Outcome(rows.detach(), columns.detach(), *(torch.nan_to_num(g, nan=0.0) for g in gradients))


def by_triton(p: PairProblem) -> Outcome:
    arguments = p.op_args()
    rows, columns = kernels.forward(*arguments)
    row_gradient = upstream(p, rows).to(rows.dtype)
    column_gradient = upstream(p, columns).to(rows.dtype)
    return Outcome(
        rows, columns, *kernels.backward(*arguments, rows, columns, row_gradient, column_gradient, True, True, True)
    )


def rotated(p: PairProblem, draw: int) -> PairProblem:
    """The problem in other coordinates: embeddings rotated, queries longer at a temperature as much higher."""
    if draw == 0:
        return p
    generator = torch.Generator().manual_seed(draw)
    dim = p.query.shape[1]
    rotation = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator))[0]
    longer = 1 + 0.07 * draw
    query, key = (longer * p.query.double() @ rotation).to(p.query.dtype), (p.key.double() @ rotation).to(p.key.dtype)
    return replace(p, query=query, key=key, temperature=p.temperature * longer)


def assert_right(p: PairProblem, draws: int = 1) -> Outcome:
    """The Triton result passes the rule on statistics and gradients, over ``draws`` rotations (dtemperature with > 1)."""
    eps, output_eps = torch.finfo(accumulator_dtype(p.query.dtype)).eps, torch.finfo(p.query.dtype).eps
    if p.query.dtype == torch.float64:
        eps = output_eps = 1e-10  # the reference is the truth itself: the bound of tests/kernels for float64
    scalars: list[list[Tensor]] = []
    gradients: dict[str, list[list[Tensor]]] = {"dquery": [], "dkey": []}
    for draw in range(draws):
        drawn = rotated(p, draw)
        truth, same, got = by_reference(in_float64(drawn)), by_reference(drawn), by_triton(drawn)
        for name, values in gradients.items():
            values.append([getattr(o, name).double() for o in (truth, same, got)])
        scalars.append([outcome.dtemperature.double() for outcome in (truth, same, got)])
        if draw:
            continue
        first = got
        for name in ("row_stats", "column_stats"):
            for line, quantity in enumerate(("lse", "weight_sum", "positive", "weight_log_sum")):
                assert_close(f"{name} {quantity}", *(getattr(o, name)[line] for o in (truth, same, got)), ROUNDINGS * eps)
    for name, values in gradients.items():
        assert_close(name, *(torch.cat(list(parts)) for parts in zip(*values, strict=True)), ROUNDINGS * output_eps)
    right, reference_error, error = (
        torch.stack([abs(x) for x in values]).square().mean().sqrt()
        for values in ([t for t, _, _ in scalars], [s - t for t, s, _ in scalars], [g - t for t, _, g in scalars])
    )
    assert torch.isfinite(error)
    if draws > 1:
        allowed = 2 * reference_error + SCALAR_ROUNDINGS * eps * right
        assert error <= allowed, f"dtemperature: error {error:.3g}, reference {reference_error:.3g}, size {right:.3g}"
    return first


def assert_close(name: str, truth: Tensor, same: Tensor, got: Tensor, roundings: float) -> None:
    assert got.shape == truth.shape, f"{name}: shape {tuple(got.shape)} instead of {tuple(truth.shape)}"
    finite = torch.isfinite(truth)
    assert torch.equal(got.double()[~finite], truth[~finite]), f"{name}: infinities differ"
    if not finite.any():
        return
    truth, same, got = truth[finite], same.double()[finite], got.double()[finite]
    assert torch.isfinite(got).all(), f"{name}: {int((~torch.isfinite(got)).sum())} values are not finite"
    for measure in (torch.max, torch.mean):
        error, allowed, size = (measure(x.abs()) for x in (got - truth, same - truth, truth))
        text = f"{name}: {measure.__name__} error {error:.3g}, reference {allowed:.3g}, size {size:.3g}"
        assert error <= 2 * allowed + roundings * size, text
