"""float64 truth of a problem too large to hold: 64 of its queries and 64 of its keys.

    s_ij = q_i . k_j / t       loss = mean_i lse_i - positive_i, so upstream a = 1 / N on lse and b = -1 / N on positive
    outside: dS_ij = a e^(s_ij - lse_i) + b w_ij / W_i                      dq_i = sum_j dS_ij k_j / t
    inside:  dS_ij = a e^(s_ij - lse_i) + b w_ij e^(s_ij - positive_i)      dk_j = sum_i dS_ij q_i / t

One frame, no masks, all negatives. dq_i needs one row of pairs, whose lse, W and positive are computed here. dk_j needs
those of all rows, which would be all pairs: there the statistics that the kernel gave are taken, of which 64 are checked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from laparoflow_kernels.backends.reference import flow_weights
from laparoflow_kernels.problem import PairProblem

SAMPLES = 64
NAMES = ("lse", "positive", "dq", "dk")
# largest |got - truth| / |truth| that passes: statistics are float32, the gradients bfloat16 (a rounding is 2e-3)
TOLERANCES = (1e-4, 1e-4, 2e-2, 2e-2)


class Truth(NamedTuple):
    """Of the sampled queries and keys, float64."""

    queries: Tensor  # [64] indices
    keys: Tensor  # [64] indices
    lse: Tensor  # [64]
    positive: Tensor  # [64]
    dq: Tensor  # [64, D]
    dk: Tensor  # [64, D]


def relative_errors(problem: PairProblem, rows: Tensor, dq: Tensor, dk: Tensor) -> list[float]:
    """max |got - truth| / max |truth| of lse, positive, dq and dk.

    Args:
        problem: one frame without masks, any device.
        rows: the statistics [4, N] of a backend.
        dq, dk: its gradients [N, D], [M, D] of the mean of lse - positive.
    """
    truth = sampled_truth(problem, rows)
    got = (rows[0, truth.queries], rows[2, truth.queries], dq[truth.queries], dk[truth.keys])
    return [
        ((given.double() - right).abs().max() / right.abs().max()).item()
        for given, right in zip(got, (truth.lse, truth.positive, truth.dq, truth.dk), strict=True)
    ]


def wrong(errors: list[float]) -> str | None:
    """What is off by more than it may be, in words, or None. A NaN is off."""
    off = [
        f"{name} by {error:.2g} (tolerated {tolerance:.0e})"
        for name, error, tolerance in zip(NAMES, errors, TOLERANCES, strict=True)
        if not error <= tolerance
    ]
    return f"off against float64: {', '.join(off)}" if off else None


def sampled_truth(problem: PairProblem, rows: Tensor) -> Truth:
    """Statistics and gradients of evenly spread queries and keys; memory some 64 (N + M) numbers.

    Raises:
        ValueError: the problem has several frames, masks or other negatives, which the formulas leave out.
    """
    masked = problem.query_frames.mask is not None or problem.key_frames.mask is not None
    if len(problem.query_frames.sizes) != 1 or masked or problem.negatives != "all":
        raise ValueError("problem: expected one frame without masks and negatives 'all'")
    query, key = problem.query.detach(), problem.key.detach()
    queries, keys = (_spread(len(side), query.device) for side in (query, key))
    flow, key_flow = problem.query_frames.flow, problem.key_frames.flow

    s, w = _pairs(problem, query[queries], key, flow[queries], key_flow)
    lse, weight_sum = s.logsumexp(1), w.sum(1)
    positive = (s + w.log()).logsumexp(1) if problem.positives == "inside" else (w * s).sum(1) / weight_sum
    t = problem.temperature.double()
    dq = _coefficients(problem, s, w, lse, weight_sum, positive) @ key.double() / t

    s, w = _pairs(problem, query, key[keys], flow, key_flow[keys])
    dk = _coefficients(problem, s, w, *rows[:3].detach().double()).T @ query.double() / t
    return Truth(queries, keys, lse, positive, dq, dk)


def _spread(size: int, device: torch.device) -> Tensor:
    return torch.linspace(0, size - 1, min(SAMPLES, size), device=device).long()


def _pairs(problem: PairProblem, query: Tensor, key: Tensor, flow: Tensor, key_flow: Tensor) -> tuple[Tensor, Tensor]:
    """s and w of all pairs of these queries [n, D] and keys [m, D]: [n, m] each."""
    s = query.double() @ key.double().T / problem.temperature.double()
    inv_bandwidth = problem.inv_bandwidth.double()
    return s, flow_weights(flow.double()[None], key_flow.double()[None], inv_bandwidth, problem.flow_kernel)[0]


def _coefficients(
    problem: PairProblem, s: Tensor, w: Tensor, lse: Tensor, weight_sum: Tensor, positive: Tensor
) -> Tensor:  # fmt: skip
    """dS [n, m] from pairs [n, m] and the statistics [n] of their rows."""
    share = 1 / len(problem.query)
    if problem.positives == "inside":
        pulled = torch.where(w > 0, w * (s - positive[:, None]).exp(), 0)
    else:
        pulled = torch.where(w > 0, w / weight_sum[:, None], 0)
    return share * ((s - lse[:, None]).exp() - pulled)
