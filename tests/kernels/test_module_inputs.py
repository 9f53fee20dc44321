"""``FlowInfoNCELoss`` with masked, tiny and huge embeddings, and inputs whose gradient the loss does not have."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from laparoflow_kernels import FlowInfoNCELoss, flow_infonce, flow_weighted_sum, pairwise_flow_weights


def maps(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    embeddings = [torch.randn(2, 8, 4, 6, generator=generator).to(device, dtype) for _ in range(2)]
    return embeddings, [torch.randn(2, 2, 4, 6, generator=generator).to(device) for _ in range(2)]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"symmetric": True}], ids=str)
def test_masked_embeddings_may_hold_anything(backend: str, device: str, bad: float, lists: bool, options: Any) -> None:
    """The loss and its gradients are those with zeros there; the gradient at masked pixels is 0."""
    module = FlowInfoNCELoss(bandwidth="auto", backend=backend, **options)
    keep = torch.ones(2, 4, 6, dtype=torch.bool, device=device)
    keep[0, 0, 0] = keep[1, 2, 3] = False
    results = []
    for fill in (0.0, bad):
        sides, flows = maps(device=device)
        for x in (*sides, *flows):
            x.movedim(1, -1)[~keep] = fill
        parts: list[Any] = [[*sides[:1]], [*sides[1:]]]
        parts = [list(side[0]) if lists else side[0] for side in parts]
        leaves = [x.requires_grad_() for side in parts for x in (side if lists else [side])]
        masks: list[Any] = [list(keep) if lists else keep] * 2
        loss = module(*parts, *((list(x) if lists else x) for x in flows), *masks)
        values = loss if isinstance(loss, list | tuple) else [loss]
        gradients = torch.autograd.grad(sum(x.sum() for v in values for x in (v if isinstance(v, list) else [v])), leaves)
        results.append(gradients)
        for gradient, mask in zip(gradients, [*keep, *keep] if lists else [keep, keep], strict=True):
            assert (gradient.movedim(-3, -1)[~mask] == 0).all()
    for expected, found in zip(*results, strict=True):
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(found, expected)


LENGTHS = [
    (torch.float16, 2.0**-20), (torch.float16, 2.0**12), (torch.bfloat16, 2.0**-100), (torch.bfloat16, 2.0**120),
    (torch.float32, 2.0**-120), (torch.float32, 2.0**120), (torch.float64, 2.0**-1000), (torch.float64, 2.0**1000),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "length"), LENGTHS, ids=str)
def test_rows_of_any_length_that_the_dtype_holds_have_a_direction(dtype: torch.dtype, length: float) -> None:
    """Scaling by a power of 2 that rounds nothing changes no direction, and divides the gradient by itself."""
    sides, flows = maps(dtype)
    if dtype == torch.float16 and length < 1:  # what half's subnormals hold is exactly a multiple of the smallest
        sides = [(x.float() * 16).round().to(dtype) for x in sides]
    results = []
    for factor in (1.0, length):
        q, k = ((x.double() * factor).to(dtype).requires_grad_() for x in sides)
        loss = FlowInfoNCELoss(backend="reference")(q, k, *flows)
        (gradient,) = torch.autograd.grad(loss, q)
        results.append((loss.detach(), gradient.double() * factor))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=0)
    size = results[0][1].abs().max()
    assert size > 1e-6
    limit = 2e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-5
    assert (results[1][1] - results[0][1]).abs().max() <= limit * size


def test_rows_of_zeros_and_of_no_normal_length_have_none() -> None:
    (q, k), flows = maps()
    q[0, :, 0, 0], q[0, :, 0, 1] = 0.0, 1e-41
    q.requires_grad_()
    FlowInfoNCELoss()(q, k, *flows).backward()
    assert torch.isfinite(q.grad).all()
    assert (q.grad[0, :, 0, :2] == 0).all()


def test_gradients_that_the_loss_does_not_have_are_refused_by_name() -> None:
    (q, k), flows = maps()
    with pytest.raises(ValueError, match=r"^bandwidth: expected no gradient"):
        FlowInfoNCELoss(bandwidth=torch.nn.Parameter(torch.tensor(1.0)))
    tokens = [x.flatten(2).transpose(1, 2) for x in (q, k, *flows)]
    asking = [x.clone().requires_grad_() for x in tokens]
    for name, call in {
        "bandwidth": lambda: flow_infonce(*tokens, bandwidth=torch.ones(2, requires_grad=True)),
        "query_flow": lambda: flow_infonce(*tokens[:2], asking[2], tokens[3]),
        "key_flow": lambda: flow_infonce(*([x] for x in (*(y[0] for y in tokens[:3]), asking[3][0]))),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: expected no gradient"):
            call()
        with torch.no_grad():
            call()
    with pytest.raises(ValueError, match=r"^key_flow: expected no gradient"):
        flow_weighted_sum(tokens[2], asking[3], tokens[1])
    with pytest.raises(ValueError, match=r"^query_flow: expected no gradient"):
        pairwise_flow_weights(asking[2], tokens[3])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_learned_temperature_of_one_element_has_any_shape(backend: str, device: str, shape: tuple[int, ...]) -> None:
    """FSDP shards parameters of shape [1], and none without a dimension."""
    module = FlowInfoNCELoss(temperature=torch.nn.Parameter(torch.full(shape, 0.2)), backend=backend).to(device)
    (q, k), flows = maps(device=device)
    loss = module(q, k, *flows)
    loss.backward()
    plain = FlowInfoNCELoss(temperature=0.2, backend=backend)(q, k, *flows)
    torch.testing.assert_close(loss.detach(), plain)
    assert module.temperature.grad.shape == shape
    assert module.temperature.grad.abs().max() > 0


def test_the_automatic_choice_says_once_that_it_holds_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = import_module("laparoflow_kernels.backends")
    monkeypatch.setattr(registry, "_warned", set())
    monkeypatch.setattr(registry.native, "unavailable", lambda *_: "no extension")
    tokens, flow = torch.randn(1, 1700, 4), torch.randn(1, 1700, 2)
    with pytest.warns(RuntimeWarning, match=r"all pairs in memory, about 0\.1 GB here, .*native: no extension"):
        flow_infonce(tokens, tokens, flow, flow)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow_infonce(tokens, tokens, flow, flow)
        flow_infonce(tokens, tokens, flow, flow, backend="reference")
