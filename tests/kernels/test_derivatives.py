"""Derivatives that the fused backends do not have: an error, never a silent 0; the reference has them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from laparoflow_kernels import flow_infonce, flow_weighted_sum
from tests.numerics import unit


def loss_of(backend: str, device: str, reduction: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    q, k = (unit(2, n, 4, seed=n).float().to(device) for n in (6, 7))
    generator = torch.Generator().manual_seed(0)
    f, g = (torch.randn(2, n, 2, generator=generator).to(device) for n in (6, 7))

    def loss(x: Tensor) -> Tensor:
        return flow_infonce(x, k, f, g, reduction=reduction, backend=backend).sum()

    return loss, q


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivatives_are_refused(backend: str, device: str, reduction: str) -> None:
    loss, q = loss_of(backend, device, reduction)
    q.requires_grad_()
    value = loss(q)
    (gradient,) = torch.autograd.grad(value, q, create_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss(q), q)[0])
    with pytest.raises(NotImplementedError, match="no second derivatives; backend='reference' has"):
        (value + gradient.square().sum()).backward()
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.square().sum(), q)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_forward_mode_is_refused(backend: str, device: str, reduction: str) -> None:
    loss, q = loss_of(backend, device, reduction)
    with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
        torch.func.jvp(loss, (q,), (torch.ones_like(q),))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
        loss(forward_ad.make_dual(q, torch.ones_like(q)))
    with forward_ad.dual_level():  # nothing here has a tangent
        assert torch.isfinite(loss(q))
    with pytest.raises(NotImplementedError, match=r"torch\.func\.grad"):
        torch.func.grad(loss)(q)


def test_the_reference_has_them() -> None:
    loss, q = loss_of("reference", "cpu", "mean")
    q.requires_grad_()
    value = loss(q)
    (gradient,) = torch.autograd.grad(value, q, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), q)[0].abs().max() > 0
    slope = torch.func.jvp(loss, (q.detach(),), (torch.ones_like(q),))[1]
    torch.testing.assert_close(slope, gradient.sum().detach(), rtol=1e-4, atol=1e-5)


def test_the_weighted_sum_is_linear_so_its_gradient_has_one(backend: str, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    f, g, values = (torch.randn(2, n, c, generator=generator).to(device) for n, c in ((6, 2), (7, 2), (7, 3)))
    values.requires_grad_()
    out = flow_weighted_sum(f, g, values, backend=backend)
    (gradient,) = torch.autograd.grad(out.square().sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), values)
    truth = flow_weighted_sum(f, g, torch.ones_like(values), backend="reference")  # H 1 = 2 A^T A 1
    expected = 2 * flow_weighted_sum(g, f, truth, backend="reference")
    torch.testing.assert_close(second, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
        torch.func.jvp(lambda v: flow_weighted_sum(f, g, v, backend=backend), (values.detach(),), (torch.ones_like(values),))
