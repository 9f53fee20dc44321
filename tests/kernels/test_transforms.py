"""torch.func.vmap, fake tensors and meta tensors: checks of values do not look where there are none."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from laparoflow_kernels import FlowInfoNCELoss, flow_infonce, flow_weighted_sum
from tests.numerics import unit

OPTIONS: list[dict] = [dict(), dict(symmetric=True, positives="inside"), dict(scope="batch", reduction="none")]


def inputs(device: str, problems: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = [torch.stack([unit(2, n, 8, seed=n + i) for i in range(problems)]).float() for n in (7, 9)]
    flows = [torch.randn(problems, 2, n, 2, generator=generator) for n in (7, 9)]
    return [x.to(device) for x in (*embeddings, *flows)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_vmap_gives_each_problem_its_own_loss_and_gradients(backend: str, device: str, options: dict) -> None:
    given = inputs(device)
    for x in given[:2]:
        x.requires_grad_()
    function = lambda *x: flow_infonce(*x, temperature=0.2, backend=backend, **options)
    mapped, each = torch.func.vmap(function)(*given), torch.stack([function(*x) for x in zip(*given, strict=True)])
    torch.testing.assert_close(mapped, each, rtol=1e-5, atol=1e-6)
    wanted, got = (torch.autograd.grad(x.square().sum(), given[:2]) for x in (each, mapped))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_vmap_over_one_argument_and_of_the_weighted_sum(backend: str, device: str) -> None:
    query, key, flow, key_flow = inputs(device)
    temperatures = torch.tensor([0.1, 0.2, 0.5], device=device)
    criterion = lambda t: flow_infonce(query[0], key[0], flow[0], key_flow[0], temperature=t, backend=backend)
    torch.testing.assert_close(torch.func.vmap(criterion)(temperatures), torch.stack([criterion(t) for t in temperatures]))
    weighted = lambda values: flow_weighted_sum(flow[0], key_flow[0], values, backend=backend)
    mapped = torch.func.vmap(weighted, in_dims=2)(key.movedim(0, 2))
    torch.testing.assert_close(mapped, torch.stack([weighted(v) for v in key]))


def test_vmap_in_the_reference_and_over_masks() -> None:
    query, key, flow, key_flow = inputs("cpu")
    mask = torch.rand(3, 2, 7, generator=torch.Generator().manual_seed(1)) > 0.3
    results = []
    for backend in ("reference", "native"):
        criterion = lambda *x: flow_infonce(*x[:4], query_mask=x[4], backend=backend)  # noqa: B023
        results += [torch.func.vmap(criterion)(query, key, flow, key_flow, mask)]
        results += [torch.stack([criterion(*x) for x in zip(query, key, flow, key_flow, mask, strict=True)])]
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [dict(), dict(bandwidth="auto", symmetric=True), dict(temperature=None)], ids=str)
def test_fake_tensors_give_fake_results(backend: str, device: str, options: dict) -> None:
    with FakeTensorMode() as mode:
        query, key = (torch.randn(2, 8, 4, 5, device=device, requires_grad=True) for _ in range(2))
        flow = torch.randn(2, 2, 4, 5, device=device)
        if "temperature" in options:
            options = dict(temperature=torch.nn.Parameter(torch.tensor(0.1, device=device)))
        loss = FlowInfoNCELoss(backend=backend, **options)(query, key, flow, flow, torch.ones(2, 4, 5, device=device) > 0)
        loss.backward()
        assert loss.shape == () and query.grad is not None and query.grad.fake_mode is mode


def test_meta_tensors_give_meta_results() -> None:
    query, key = (torch.randn(2, 6, 8, device="meta", requires_grad=True) for _ in range(2))
    flow = torch.randn(2, 6, 2, device="meta")
    loss = flow_infonce(query, key, flow, flow, temperature=torch.ones((), device="meta"), bandwidth=flow.new_ones(2))
    loss.backward()
    assert loss.is_meta and query.grad is not None and query.grad.shape == query.shape
