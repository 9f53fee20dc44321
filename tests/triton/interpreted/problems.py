"""Problems for the Triton kernels, and the rule by which a result is right.

Truth is the reference backend in float64. A fused result may be off by twice the error of the reference run in the same
dtype plus a few roundings of the quantity's own size: of its largest value for statistics; for gradients of the terms
that are subtracted (dS is a difference of two probabilities, each off by eps |s| for a logit rounded to float32), which
is max |dL/dlse| |k| / temperature for dq and dk and the sum of the magnitudes of its rows for dtemperature. A gradient
returned in half precision has one rounding of its own on top.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laparoflow_kernels.backends import reference
from laparoflow_kernels.backends import triton as kernels
from laparoflow_kernels.problem import PackedFrames, PairProblem, accumulator_dtype

ROUNDINGS = 12


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


def assert_right(p: PairProblem) -> Outcome:
    """The Triton result passes the 2x rule on every statistic and gradient; returns it."""
    double = in_float64(p)
    truth, same, got = by_reference(double), by_reference(p), by_triton(p)
    eps, output_eps = torch.finfo(accumulator_dtype(p.query.dtype)).eps, torch.finfo(p.query.dtype).eps
    for name in ("row_stats", "column_stats"):
        for line, quantity in enumerate(("lse", "weight_sum", "positive", "weight_log_sum")):
            values = [getattr(o, name)[line] for o in (truth, same, got)]
            assert_close(f"{name} {quantity}", *values, ROUNDINGS * eps * largest(values[0]))
    query, key = double.query.nan_to_num(), double.key.nan_to_num()
    logit = 1 + largest(query @ key.T) / float(p.temperature)
    upstreams = [upstream(p, s).abs() for s in (truth.row_stats, truth.column_stats)]
    term = sum(largest(u) for u in upstreams) * max(largest(query.norm(dim=1)), largest(key.norm(dim=1)))
    term = 2 * logit * eps * term / float(p.temperature)
    for name in ("dquery", "dkey"):
        values = [getattr(o, name) for o in (truth, same, got)]
        own_rounding = 0.0 if output_eps == eps else output_eps * largest(values[0])
        assert_close(name, *values, term + own_rounding)
    by_row = (query * truth.dquery).sum(1).abs().sum() / double.temperature
    values = [truth.dtemperature, same.dtemperature, got.dtemperature]
    assert_close("dtemperature", *values, 2 * logit * eps * float(by_row) + term)
    return got


def largest(values: Tensor) -> float:
    """Largest finite magnitude, 0 of nothing."""
    return float(torch.where(torch.isfinite(values), values, 0.0).abs().max()) if values.numel() else 0.0


def assert_close(name: str, truth: Tensor, same: Tensor, got: Tensor, slack: float) -> None:
    assert got.shape == truth.shape, f"{name}: shape {tuple(got.shape)} instead of {tuple(truth.shape)}"
    finite = torch.isfinite(truth)
    assert torch.equal(got.double()[~finite], truth[~finite]), f"{name}: infinities differ"
    if not finite.any():
        return
    truth, same, got = truth[finite], same.double()[finite], got.double()[finite]
    assert torch.isfinite(got).all(), f"{name}: {int((~torch.isfinite(got)).sum())} values are not finite"
    for measure, error, allowed in (
        ("max", (got - truth).abs().max(), (same - truth).abs().max()),
        ("mean", (got - truth).abs().mean(), (same - truth).abs().mean()),
    ):
        assert error <= 2 * allowed + slack, f"{name}: {measure} error {error:.3g}, reference {allowed:.3g} + {slack:.3g}"
