"""Positives by expansion: the bound on every row, gradients, exact sums where weights are tiny, and every fall-back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from laparoflow_kernels import FlowInfoNCELoss, fast_positives, flow_infonce
from laparoflow_kernels.backends import reference
from laparoflow_kernels.packing import inverse_bandwidth, pack_frames
from laparoflow_kernels.problem import PairProblem
from tests.numerics import unit

N, M, D, T = 90, 75, 12, 0.1


def flows(kind: str, components: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    f, g = (torch.rand(2, n, components, dtype=torch.float64, generator=generator) for n in (N, M))
    if kind == "equal":
        return torch.full_like(f, 3.25), torch.full_like(g, 3.25)
    if kind == "uniform":
        return 9 * f, 9 * g
    if kind == "offset":
        return 1e4 + 5 * f, 1e4 + 5 * g
    if kind == "outliers":  # the first rows are far from every key, some so far that every weight is 0
        f = 3 * f
        f[:, :8, 0] = torch.linspace(8.0, 20.0, 8, dtype=torch.float64)
        return f, 3 * g
    centres = torch.tensor([[0.0, 0.0], [1e4, -30.0], [40.0, 1e4]], dtype=torch.float64)
    return tuple(x + centres[torch.arange(x.shape[1]) % 3] for x in (f, g))  # type: ignore[return-value]


def packed(kind: str, dtype: torch.dtype, masked: bool = False, bandwidth: float = 1.0, **options: Any) -> PairProblem:
    query, key = unit(2, N, D, seed=1).to(dtype), unit(2, M, D, seed=2).to(dtype)
    f, g = (x.to(dtype) for x in flows(kind))
    masks = [None, None]
    if masked:
        generator = torch.Generator().manual_seed(9)
        masks = [torch.rand(2, n, generator=generator) > 0.3 for n in (N, M)]
        for mask, x, flow in zip(masks, (query, key), (f, g), strict=True):
            x[~mask], flow[~mask] = torch.nan, torch.nan
    frames = [
        pack_frames(side, flow, mask, (n,) * 2, dtype, flow.device, True)
        for side, flow, mask, n in zip(("query", "key"), (f, g), masks, (N, M), strict=True)
    ]
    choices: dict[str, Any] = dict(
        flow_kernel="gaussian", positives="outside", negatives="all", scope="frame", symmetric=True, bounded=False
    )
    return PairProblem(
        query.flatten(0, 1), key.flatten(0, 1), *frames, torch.tensor(T, dtype=dtype),
        inverse_bandwidth(bandwidth, 2, dtype, query.device), **{**choices, **options},
    )  # fmt: skip


def in_float64(p: PairProblem) -> PairProblem:
    frames = [f._replace(flow=f.flow.double()) for f in (p.query_frames, p.key_frames)]
    return PairProblem(
        p.query.double(), p.key.double(), *frames, p.temperature.double(), p.inv_bandwidth.double(), p.flow_kernel,
        p.positives, p.negatives, p.scope, p.symmetric, p.bounded,
    )  # fmt: skip


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expansions even where the exact sums are cheaper, as they are at the sizes of these tests."""
    monkeypatch.setattr(fast_positives, "WORTH_IT", float("inf"))
    monkeypatch.setattr(fast_positives, "CHUNK", 30_000)  # several chunks per frame
    monkeypatch.setattr(fast_positives, "MOST_EXACT", 0.2)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", ["equal", "uniform", "offset", "clustered", "outliers"])
@pytest.mark.parametrize(
    ("dtype", "eps"), [(torch.float64, 0.3), (torch.float64, 1e-3), (torch.float64, 1e-8), (torch.float32, 1e-3)], ids=str
)
@pytest.mark.parametrize("masked", [False, True])
def test_every_row_keeps_the_bound(kind: str, dtype: torch.dtype, eps: float, masked: bool) -> None:
    if masked and kind == "clustered":
        fast_positives.CHUNK = 200_000
    p = packed(kind, dtype, masked)
    assert fast_positives.plan(p, eps)[0], fast_positives.plan(p, eps)[1]
    double = in_float64(p)
    exact, got = reference.statistics(double), fast_positives.statistics(p, reference, eps)
    s = (double.query.nan_to_num() @ double.key.nan_to_num().T) / T
    rounding = 8 * torch.finfo(dtype).eps
    for right, fast, logits in zip(exact, got, (s, s.T), strict=True):
        fast = fast.double()
        w, positive = right[1], right[2]
        assert torch.equal(fast[0] == -torch.inf, right[0] == -torch.inf)
        assert torch.equal(fast[1] > 0, w > 0), "another set of rows counts"
        assert ((fast[1] - w).abs() <= (eps + rounding) * w).all()
        # |s_ij - positive_i| is at most the spread of the row
        spread = logits.amax(1) - logits.amin(1)
        assert ((fast[2] - positive).abs() <= eps * spread + rounding * logits.abs().amax()).all()
        moments = rounding + 2.0**-44 * double.query_frames.flow.nan_to_num(0).abs().amax() ** 2
        assert ((fast[3] - right[3]).abs() <= (eps + rounding) * right[3].abs() + moments * w).all()


@pytest.mark.usefixtures("always")
def test_the_bound_is_not_met_by_taking_everything_exactly() -> None:
    """A coarse expansion is seen to differ, so the tests of the bound look at the expansion itself."""
    p = packed("uniform", torch.float64)
    exact, got = reference.statistics(p)[0], fast_positives.statistics(p, reference, 0.3)[0]
    assert (got[1] / exact[1] - 1).abs().max() > 1e-3
    directions, _ = fast_positives.plan(p, 0.3)
    assert sum(len(rows) for direction in directions for rows in direction.exact) == 0


@pytest.mark.usefixtures("always")
def test_rows_of_tiny_weights_are_exact() -> None:
    p = packed("outliers", torch.float64)
    directions, _ = fast_positives.plan(p, 0.1)
    rows = torch.cat([rows + N * frame for frame, rows in enumerate(directions[0].exact)])
    assert 0 < len(rows) < 20
    exact, got = reference.statistics(p)[0], fast_positives.statistics(p, reference, 0.1)[0]
    torch.testing.assert_close(got[1:, rows], exact[1:, rows], rtol=1e-12, atol=0)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", ["uniform", "outliers"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_are_those_of_the_approximation(kind: str, symmetric: bool) -> None:
    f, g = flows(kind)
    f, g = f[:, :30], g[:, :25]
    q, k = unit(2, 30, 4, seed=1).requires_grad_(), unit(2, 25, 4, seed=2).requires_grad_()
    t = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def loss(q: torch.Tensor, k: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return flow_infonce(
            q, k, f, g, temperature=t, symmetric=symmetric, reduction="sum", positives_eps=0.2, backend="reference"
        )

    assert torch.autograd.gradcheck(loss, (q, k, t), fast_mode=True)


@pytest.mark.usefixtures("always")
def test_gradients_keep_the_bound(backend: str, device: str) -> None:
    eps, (f, g) = 1e-2, (x.float().to(device) for x in flows("uniform"))
    results = []
    for choice in (None, eps):
        q, k = (unit(2, n, D, seed=n).float().to(device).requires_grad_() for n in (N, M))
        rows, columns = flow_infonce(
            q, k, f, g, temperature=T, symmetric=True, reduction="none", positives_eps=choice, backend=backend
        )
        results.append(torch.autograd.grad(rows.sum() + 0 * columns.sum(), q)[0])
    difference = (results[0] - results[1]).norm(dim=-1)
    assert (difference <= 2 * eps / T).all()
    assert difference.max() > 1e-5 / T


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"scope": "batch"}, {"symmetric": True}], ids=str)
def test_the_loss_is_near_the_exact_one(backend: str, device: str, dtype: torch.dtype, options: dict) -> None:
    f, g = (x.float().to(device) for x in flows("uniform"))
    q, k = (unit(2, n, D, seed=n).to(dtype).to(device) for n in (N, M))
    exact, fast = (
        flow_infonce(q, k, f, g, temperature=T, positives_eps=eps, backend=backend, **options) for eps in (None, 1e-3)
    )
    torch.testing.assert_close(fast, exact, rtol=0, atol=2e-3)
    assert fast != exact


@pytest.mark.parametrize(
    ("kind", "options", "eps", "reason"),
    [
        ("uniform", {"flow_kernel": "laplace"}, 0.1, "flow_kernel='gaussian'"),
        ("uniform", {"positives": "inside"}, 0.1, "positives='outside'"),
        ("uniform", {"negatives": "dissimilar"}, 0.1, "negatives='all'"),
        ("uniform", {}, 1e-6, "roundings alone"),
        ("uniform", {"bandwidth": 0.01}, 0.1, "costs"),
    ],
)
def test_what_falls_back_is_exact(kind: str, options: dict, eps: float, reason: str) -> None:
    p = packed(kind, torch.float32, **options)
    directions, why = fast_positives.plan(p, eps)
    assert not directions and reason in why
    for got, exact in zip(fast_positives.statistics(p, reference, eps), reference.statistics(p), strict=True):
        assert torch.equal(got, exact)


def test_many_tiny_rows_and_no_pixels_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_positives, "WORTH_IT", float("inf"))
    p = packed("outliers", torch.float32)
    p.query_frames.flow[:, 0] += 14
    assert "under 2^-80" in fast_positives.plan(p, 0.1)[1]
    empty = packed("uniform", torch.float32)
    empty = PairProblem(
        empty.query[:0], empty.key, empty.query_frames._replace(flow=empty.query_frames.flow[:0], sizes=(0, 0), max_size=0),
        *list(vars(empty).values())[3:],
    )  # fmt: skip
    assert not fast_positives.plan(empty, 0.1)[0]


def test_large_frames_use_it_and_a_compiled_graph_does_not(backend: str, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (unit(1, 700, 8, seed=s).float().to(device) for s in (1, 2))
    f, g = (3 * torch.rand(1, 700, 2, generator=generator).to(device) for _ in range(2))

    def loss(eps: float | None) -> torch.Tensor:
        return flow_infonce(q, k, f, g, positives_eps=eps, backend=backend)

    exact, fast = loss(None), loss(0.1)
    assert fast != exact
    torch.testing.assert_close(fast, exact, rtol=0, atol=0.05)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")(0.1)
    torch.testing.assert_close(compiled, exact)
    module = FlowInfoNCELoss(temperature=0.1, positives_eps=0.1, backend=backend)
    torch.testing.assert_close(module(q, k, f, g), fast)


@pytest.mark.parametrize("eps", [0.0, -1.0, 1.0, 2.0, float("nan")])
def test_bad_eps_is_refused(eps: float) -> None:
    q, f = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
    with pytest.raises(ValueError, match="positives_eps: expected a"):
        flow_infonce(q, q, f, f, positives_eps=eps)
    with pytest.raises(ValueError, match="positives_eps: expected None with over_processes"):
        FlowInfoNCELoss(scope="batch", over_processes="ring", positives_eps=0.1)
