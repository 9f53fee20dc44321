"""Positives of the gaussian, outside form through a low-rank expansion of the weights, with a certified error bound.

    positive_i = q_i . S_i / (t W_i)      S_i = sum_j w_ij k_j      W_i = sum_j w_ij      w_ij = exp(-|x_i - y_j|^2 / 2)

for flows x, y in units of the bandwidth. One component at a time, with nodes u_l = l h and C = h sqrt(2 / pi),

    exp(-(x - y)^2 / 2) = C sum_l exp(-(x - u_l)^2) exp(-(y - u_l)^2) / (1 + a)

because both sides hold exp(-(x - y)^2 / 2) as a factor (the exponents add up to (x - y)^2 / 2 + 2 (u_l - mid)^2, with mid
the middle of x and y) and what remains is the trapezoidal rule for the integral of a gaussian. By Poisson's sum formula its
error is |a| <= 2 sum_m q^(m m) <= 2 q / (1 - q), q = exp(-pi^2 / (2 h^2)). Leaving out the nodes farther than rho from mid
takes off at most b = 2 C exp(-2 rho^2) + erfc(sqrt(2) rho). Both are errors RELATIVE to the single weight, however small it
is, and no term is negative. So for F components the weights in use are w (1 + d) with 1 + |d| <= (1 + |a| + b)^F, hence

    |W' - W| <= d W       |positive' - positive| <= d / (1 - d) * sum_j w_ij |s_ij - positive_i| / W_i
    |dpositive'/dq_i - dpositive/dq_i| <= d / (1 - d) * 2 max |k| / t

and h and rho are chosen so that d / (1 - d) <= eps, roundings included. The gradients are those of the approximated
function, exactly. Kept nodes: those within rho of the middle of a pair of weight at least 2^-126 (smaller ones are 0).

The bound is kept by exact sums where the expansion is not enough: rows with W < 2^-80 (products of features could
underflow there). And the whole call falls back to the exact kernels, ``plan`` returning the reason, where the option does
not apply, roundings alone exceed eps, or the expansion would not be cheaper: R nodes (all components) cost
2 (N + M) R D against 2 N M D operations; R grows with (extent of the flow / bandwidth)^F.

The denominators come from the chosen backend with constant weights (zero flows, tophat), at no exponential for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from laparoflow_kernels import checks
from laparoflow_kernels.backends import reference
from laparoflow_kernels.loss_forms import STAT_LSE
from laparoflow_kernels.problem import PackedFrames, PairProblem, accumulator_dtype

SMALLEST_SUM = 2.0**-80
FARTHEST = math.sqrt(252 * math.log(2.0))  # bandwidths between flows whose weight is 2^-126
ROUNDINGS = 64.0
CHUNK = 2**22
MOST_EXACT = 0.1
WORTH_IT = 0.5


@dataclass
class Nodes:
    """Nodes of one frame: for each flow component the positions [R_c] float64, in bandwidths from ``origin`` [F]."""

    origin: Tensor
    inv_bandwidth: Tensor
    positions: list[Tensor]
    spacing: float

    @property
    def rank(self) -> int:
        return math.prod(len(positions) for positions in self.positions)

    def coordinates(self, flow: Tensor) -> Tensor:
        """[n, F] float64."""
        return (flow.double() - self.origin) * self.inv_bandwidth

    def features(self, flow: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """(rows, features [rows, R]) chunk by chunk; 0 for masked rows."""
        step = max(1, CHUNK // self.rank)
        scale = math.sqrt(self.spacing * math.sqrt(2 / math.pi))
        for start in range(0, len(flow), step):
            rows = slice(start, start + step)
            x = self.coordinates(flow[rows])
            keep = None if mask is None else mask[rows, None]
            if keep is not None:
                x = x.masked_fill(~keep, 0)
            result = torch.ones((len(x), 1), dtype=dtype, device=flow.device)
            for component, positions in enumerate(self.positions):
                factor = (scale * torch.exp(-(x[:, component, None] - positions).square())).to(dtype)
                result = (result[:, :, None] * factor[:, None, :]).flatten(1)
            yield rows, result if keep is None else result * keep


@dataclass
class Side:
    """Flow and mask of one frame on one side, and its rows in the packed tensors."""

    flow: Tensor
    mask: Tensor | None
    rows: slice


@dataclass
class Direction:
    """The linear map values [T other, C] -> sum_j w_ij values_j [T own, C] of all frames, and what depends on flow alone."""

    frames: list[tuple[Side, Side, Nodes]]
    exact: list[Tensor]  # by frame: the own rows that are summed exactly
    weight_sum: Tensor  # [T own] accumulator dtype
    weight_log_sum: Tensor

    def sums(self, values: Tensor) -> Tensor:
        out = values.new_zeros((len(self.weight_sum), values.shape[1]))
        for (own, other, nodes), exact in zip(self.frames, self.exact, strict=True):
            part, mine = values[other.rows], out[own.rows]
            moments = values.new_zeros((nodes.rank, values.shape[1]))
            for rows, features in nodes.features(other.flow, other.mask, values.dtype):
                moments += features.T @ part[rows]
            for rows, features in nodes.features(own.flow, own.mask, values.dtype):
                torch.matmul(features, moments, out=mine[rows])
            for chosen, weights in dense(own, other, nodes, exact):
                mine[chosen] = weights.to(values.dtype) @ part
        return out

    def transposed(self, gradient: Tensor, total: int) -> Tensor:
        """sum_i w_ij gradient_i [T other, C]."""
        out = gradient.new_zeros((total, gradient.shape[1]))
        for (own, other, nodes), exact in zip(self.frames, self.exact, strict=True):
            part, theirs = gradient[own.rows].clone(), out[other.rows]
            for chosen, weights in dense(own, other, nodes, exact):
                theirs += weights.to(part.dtype).T @ part[chosen]
            part[exact] = 0
            moments = part.new_zeros((nodes.rank, part.shape[1]))
            for rows, features in nodes.features(own.flow, own.mask, part.dtype):
                moments += features.T @ part[rows]
            for rows, features in nodes.features(other.flow, other.mask, part.dtype):
                theirs[rows] += features @ moments
        return out


def dense(own: Side, other: Side, nodes: Nodes, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows, weights [rows, M]) of the chosen own rows, exact, chunk by chunk."""
    for rows in chosen.split(max(1, CHUNK // max(1, len(other.flow)))):
        if not len(rows):
            continue
        flow = other.flow if other.mask is None else other.flow.masked_fill(~other.mask[:, None], 0)
        inv_bandwidth = nodes.inv_bandwidth[None].to(flow.dtype)
        weights = reference.flow_weights(own.flow[None, rows], flow[None], inv_bandwidth, "gaussian")
        yield rows, weights[0] if other.mask is None else weights[0] * other.mask


def spacing_and_reach(eps: float, components: int) -> tuple[float, float]:
    """h and rho, in bandwidths, for which the weights of F components keep d / (1 - d) <= eps."""
    single = (1 + eps / (1 + eps)) ** (1 / components) - 1
    alias = 0.9 * single
    h = math.pi / math.sqrt(2 * math.log((2 + alias) / alias))
    rho = 0.5
    while 2 * h * math.sqrt(2 / math.pi) * math.exp(-2 * rho * rho) + math.erfc(math.sqrt(2) * rho) > 0.1 * single:
        rho += 0.01
    return h, rho


def nodes_of(flows: Tensor, inv_bandwidth: Tensor, h: float, rho: float) -> Nodes:
    """Nodes for all pairs among ``flows`` [n, F] (n > 0, finite) of one frame."""
    nodes = Nodes(flows.double().amin(0), inv_bandwidth.double(), [], h)
    halo = math.ceil((FARTHEST / 2 + rho) / h + 0.5)
    steps = torch.arange(-halo, halo + 1, device=flows.device)
    for x in nodes.coordinates(flows).unbind(1):
        near = (torch.unique((x / h).round().long())[:, None] + steps).flatten().unique()
        first, last = math.floor(-rho / h), math.ceil((float(x.max()) + rho) / h)
        nodes.positions.append(near[(near >= first) & (near <= last)].double() * h)
    return nodes


def plan(problem: PairProblem, eps: float) -> tuple[tuple[Direction, ...], str]:
    """One direction for rows (and one for columns of the symmetric loss), or () and the reason why sums are exact."""
    if (problem.flow_kernel, problem.positives, problem.negatives) != ("gaussian", "outside", "all"):
        return (), "the expansion is of flow_kernel='gaussian', positives='outside', negatives='all'"
    device, dtype = problem.query.device, accumulator_dtype(problem.query.dtype)
    if torch.compiler.is_compiling() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        return (), "the number of nodes depends on the flow, which a compiled or captured graph cannot read"
    tf32 = dtype == torch.float32 and device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    roundings = 2.0**-7 if tf32 else ROUNDINGS * torch.finfo(dtype).eps
    if eps <= 2 * roundings:
        return (), f"roundings alone may reach {roundings:.1e}"
    h, rho = spacing_and_reach(eps - roundings, problem.query_frames.flow.shape[1])
    frames: list[tuple[Side, Side, Nodes]] = []
    cost, pairs = 0.0, 0.0
    for b, (query, key) in enumerate(zip(sides(problem.query_frames), sides(problem.key_frames), strict=True)):
        kept = torch.cat([side.flow if side.mask is None else side.flow[side.mask] for side in (query, key)])
        if not len(kept):
            continue
        nodes = nodes_of(kept, problem.inv_bandwidth[b], h, rho)
        frames.append((query, key, nodes))
        cost += nodes.rank * (len(query.flow) + len(key.flow))
        pairs += len(query.flow) * len(key.flow)
        if nodes.rank > CHUNK:
            cost = math.inf
    if not pairs or cost > WORTH_IT * pairs:
        return (), f"an expansion of these flows costs {cost:.2g} products, the pairs themselves {pairs:.2g}"
    orders = [frames] + ([[(key, query, nodes) for query, key, nodes in frames]] if problem.symmetric else [])
    totals = (len(problem.query_frames.flow), len(problem.key_frames.flow))
    directions = []
    for order, total in zip(orders, totals, strict=False):
        direction = direction_of(order, total, dtype)
        if sum(len(rows) * len(other.flow) for rows, (_, other, _) in zip(direction.exact, order, strict=True)) > (
            MOST_EXACT * pairs
        ):
            return (), "too many pixels have weights under 2^-80 alone"
        directions.append(direction)
    return tuple(directions), ""


def sides(frames: PackedFrames) -> Iterator[Side]:
    start = 0
    for size in frames.sizes:
        rows = slice(start, start + size)
        yield Side(frames.flow[rows], None if frames.mask is None else frames.mask[rows], rows)
        start += size


def direction_of(frames: list[tuple[Side, Side, Nodes]], total: int, dtype: torch.dtype) -> Direction:
    """Weight sums, and sum w ln w = -sum w r^2 / 2; finds the rows to sum exactly.

    r^2 = |x|^2 - 2 x.y + |y|^2 from the moments 1, y, |y|^2 in float64: beside eps, cancellation costs it up to
    2^-44 extent^2 (the extent of the flow in bandwidths), which the entropy of the statistics alone sees.
    """
    result = Direction(frames, [], *(torch.zeros((2, total), dtype=dtype, device=frames[0][0].flow.device).unbind(0)))
    for own, other, nodes in frames:
        y = nodes.coordinates(other.flow)
        if other.mask is not None:
            y = y.masked_fill(~other.mask[:, None], 0)
        values = torch.cat([torch.ones_like(y[:, :1]), y.square().sum(1, keepdim=True), y], 1)
        moments = values.new_zeros((nodes.rank, values.shape[1]))
        for rows, features in nodes.features(other.flow, other.mask, torch.float64):
            moments += features.T @ values[rows]
        w, h = (result_part[own.rows] for result_part in (result.weight_sum, result.weight_log_sum))
        for rows, features in nodes.features(own.flow, own.mask, torch.float64):
            x, m = nodes.coordinates(own.flow[rows]), features @ moments
            w[rows] = m[:, 0].to(dtype)
            h[rows] = (-0.5 * (x.square().sum(1) * m[:, 0] + m[:, 1] - 2 * (x * m[:, 2:]).sum(1))).to(dtype)
        small = w < SMALLEST_SUM if own.mask is None else (w < SMALLEST_SUM) & own.mask
        result.exact.append(small.nonzero()[:, 0])
        for exact, weights in dense(own, other, nodes, result.exact[-1]):
            w[exact], h[exact] = weights.sum(1), torch.special.xlogy(weights, weights).sum(1)
        if own.mask is not None:
            h.masked_fill_(~own.mask, 0)
    return result


class _Sums(torch.autograd.Function):
    """``Direction.sums`` with its transpose as backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, direction: Direction) -> Tensor:
        ctx.direction, ctx.total = direction, len(values)
        return direction.sums(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.direction.transposed(gradient, ctx.total), None


def check_eps(eps: float) -> None:
    checks.check_positive("positives_eps", eps)
    if not eps < 1:
        raise ValueError(f"positives_eps: expected a number between 0 and 1, got {eps}")


def statistics(problem: PairProblem, backend: Any, eps: float) -> tuple[Tensor, Tensor]:
    """What ``backend.statistics`` returns, the positives and weight sums within the bound of ``eps``; exact by fall-back.

    Args:
        problem: as for a backend.
        backend: a backend module.
        eps: bound on d / (1 - d), 0 < eps < 1.

    Raises:
        ValueError: eps outside (0, 1).
    """
    check_eps(eps)
    directions, _ = plan(problem, eps)
    if not directions:
        return backend.statistics(problem)
    still = [f._replace(flow=torch.zeros_like(f.flow[:, :1])) for f in (problem.query_frames, problem.key_frames)]
    constant = replace(problem, query_frames=still[0], key_frames=still[1], flow_kernel="tophat")
    results = list(backend.statistics(constant))
    embeddings = [
        (x if f.mask is None else x.masked_fill(~f.mask[:, None], 0)).to(directions[0].weight_sum.dtype)
        for x, f in ((problem.query, problem.query_frames), (problem.key, problem.key_frames))
    ]
    with torch.autocast(problem.query.device.type, enabled=False):
        for index, direction in enumerate(directions):
            w = direction.weight_sum
            sums = _Sums.apply(embeddings[1 - index], direction)
            mean = (embeddings[index] * sums).sum(1) / torch.where(w > 0, w, torch.ones_like(w))
            positive = torch.where(w > 0, mean / problem.temperature, torch.zeros_like(w))
            results[index] = torch.stack([results[index][STAT_LSE], w, positive, direction.weight_log_sum])
    return results[0], results[1]
