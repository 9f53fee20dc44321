"""Problems for the Triton kernels at the level of their operators: statistics, bounded logits or not, uneven frames.

The rule by which a result is right is that of tests/numerics.py, applied to the loss of every row, to the statistics and to
the gradients, over DRAWS rotations of each problem. Of the positive term (outside) only its difference from lse is held to
the rule: a running maximum keeps it relative to that maximum, so that the loss is right to its own size even where it is
nearly 0, and its error is that of lse, whatever its own size.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laparoflow_kernels.backends import reference
from laparoflow_kernels.loss_forms import STAT_LSE, STAT_POSITIVE, STAT_WEIGHT_LOG_SUM, STAT_WEIGHT_SUM, direction_loss
from laparoflow_kernels.problem import FrameSizes, PackedFrames, PairProblem, accumulator_dtype
from tests.numerics import HALF, violations

OPERATORS = torch.ops.laparoflow_triton
DRAWS = 2
STATISTICS = {"lse": STAT_LSE, "weight_sum": STAT_WEIGHT_SUM, "weight_log_sum": STAT_WEIGHT_LOG_SUM}


def offsets(sizes: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(sizes)])


def problem(
    query_sizes: tuple[int, ...] = (70, 33),
    key_sizes: tuple[int, ...] = (65, 90),
    dim: int = 20,
    dtype: torch.dtype = torch.float32,
    flow_dim: int = 2,
    temperature: float = 0.1,
    masked: bool = False,
    grouped: bool = False,
    seed: int = 0,
    spread: float = 1.5,
    offset: float = 0.0,
    **options: object,
) -> PairProblem:
    """Random unit embeddings and flows.

    ``masked`` drops a third of the pixels and fills them with NaN; ``grouped`` leaves out a fifth of the pairs.
    """
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
        group = torch.randint(0, 5, (total,), generator=generator) - 2**40 if grouped else None
        return rows, PackedFrames(flow, mask, offsets(sizes), FrameSizes.of(sizes), group)

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
    """Statistics, loss and gradients of one backend."""

    row_stats: Tensor
    column_stats: Tensor
    loss: Tensor
    dquery: Tensor
    dkey: Tensor
    dtemperature: Tensor

    def quantities(self) -> dict[str, Tensor]:
        """Everything that the rule compares, by name."""
        result = {name: getattr(self, name) for name in ("loss", "dquery", "dkey", "dtemperature")}
        for side, stats in (("row", self.row_stats), ("column", self.column_stats)):
            result |= {f"{side} {name}": stats[line] for name, line in STATISTICS.items()}
            result[f"{side} loss"] = direction_loss(stats)[0]
            result[f"{side} without a positive"] = torch.where(torch.isfinite(stats[STAT_POSITIVE]), 0, stats[STAT_POSITIVE])
        return result


def upstream(stats: Tensor) -> Tensor:
    """dL/dlse [T] of a mean loss with uneven row weights, 0 where a row is not valid; dL/dpositive is its negative."""
    total = stats.shape[1]
    weight = torch.linspace(0.5, 1.5, max(total, 1), dtype=stats.dtype)[:total] / max(total, 1)
    return weight * direction_loss(stats)[1]


def weighted_loss(p: PairProblem, rows: Tensor, columns: Tensor) -> Tensor:
    """Scalar loss of row statistics and, when symmetric, column statistics."""
    total = torch.zeros((), dtype=rows.dtype)
    for stats in (rows, columns) if p.symmetric else (rows,):
        total = total + (upstream(stats.detach()) * direction_loss(stats)[0]).sum()
    return total


def by_reference(p: PairProblem) -> Outcome:
    query, key, temperature = (t.detach().clone().requires_grad_() for t in (p.query, p.key, p.temperature))
    rows, columns = reference.statistics(replace(p, query=query, key=key, temperature=temperature))
    loss = weighted_loss(p, rows, columns)
    gradients: tuple[Tensor | None, ...] = (None, None, None)
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, (query, key, temperature), allow_unused=True)
    inputs = (p.query, p.key, p.temperature)
    filled = (torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True))
    return Outcome(rows.detach(), columns.detach(), loss.detach(), *filled)


def by_reference_of_the_rule(p: PairProblem) -> Outcome:
    """Of 16-bit embeddings in float32, with gradients rounded (tests/numerics.py)."""
    if p.query.dtype not in HALF:
        return by_reference(p)
    found = by_reference(replace(p, query=p.query.float(), key=p.key.float()))
    return replace(found, dquery=found.dquery.to(p.query.dtype), dkey=found.dkey.to(p.query.dtype))


def by_triton(p: PairProblem) -> Outcome:
    arguments = p.op_args()
    rows, columns = OPERATORS.flow_infonce_forward(*arguments)
    row_gradient, column_gradient = (torch.stack([u, -u]) for u in (upstream(rows), upstream(columns)))
    gradients = OPERATORS.flow_infonce_backward(*arguments, rows, columns, row_gradient, column_gradient, True, True, True)
    return Outcome(rows, columns, weighted_loss(p, rows, columns), *gradients)


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


def assert_right(p: PairProblem) -> Outcome:
    """Every statistic and gradient of the Triton kernels passes the rule, over DRAWS rotations; returns the first."""
    compared: dict[str, tuple[list[Tensor], ...]] = {}
    first = None
    for draw in range(DRAWS):
        drawn = rotated(p, draw)
        outcomes = by_reference(in_float64(drawn)), by_reference_of_the_rule(drawn), by_triton(drawn)
        first = first or outcomes[2]
        quantities = [outcome.quantities() for outcome in outcomes]
        for name in [name for name in quantities[0] if p.weight_stats or "weight_log" not in name]:
            values = same_infinities(name, *(q[name] for q in quantities))
            for kept, value in zip(compared.setdefault(name, ([], [], [])), values, strict=True):
                kept.append(value)
    problems = [text for name, values in compared.items() for text in violations(name, *values, p.query.dtype)]
    assert not problems, "; ".join(problems)
    assert first is not None
    return first


def same_infinities(name: str, truth: Tensor, reference: Tensor, got: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The finite values; the others (a row without pairs) must be the same in the truth and in the result."""
    assert got.shape == truth.shape, f"{name}: shape {tuple(got.shape)} instead of {tuple(truth.shape)}"
    finite = torch.isfinite(truth)
    assert torch.equal(got.double()[~finite], truth[~finite]), f"{name}: infinities differ"
    return truth[finite], reference[finite], got[finite]
