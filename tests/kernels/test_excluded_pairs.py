"""Pairs that do not count: exclude_self and groups, and the losses of others that they express, against dense PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from laparoflow_kernels import FlowInfoNCELoss, flow_infonce
from tests.kernels.conftest import backends_under_test
from tests.numerics import unit

CPU = ["reference", *(name for name, device in backends_under_test() if device == "cpu")]
SAME = dict(flow_kernel="tophat", bandwidth=0.5)  # weight 1 where numbers are equal


def assert_same_loss_and_gradient(ours: Tensor, dense: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(dense, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """SimCLR: z [2 n, D], rows i and i + n are two views of one image."""
    s = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(s, torch.arange(len(z)).roll(len(z) // 2))


def supervised_contrast(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """SupCon, the sum outside of the logarithm, over the anchors that have a positive."""
    other = ~torch.eye(len(z), dtype=torch.bool)
    log_p = (z @ z.T / temperature).masked_fill(~other, -torch.inf).log_softmax(1)
    positive = (labels[:, None] == labels[None, :]) & other
    count = positive.sum(1)
    loss = -torch.where(positive, log_p, 0).sum(1)[count > 0] / count[count > 0]
    return loss.mean()


def pix_contrast(q: Tensor, k: Tensor, place: Tensor, key_place: Tensor, radius: float, temperature: float) -> Tensor:
    """PixContrast: both directions; a pixel without a positive is left out."""
    near = torch.cdist(place, key_place) <= radius
    e = (q @ k.T / temperature).exp()
    parts = []
    for exponentials, positive in ((e, near), (e.T, near.T)):
        share = torch.where(positive, exponentials, 0).sum(1) / exponentials.sum(1)
        parts.append(-share[positive.any(1)].log().mean())
    return sum(parts) / 2


@pytest.mark.parametrize("backend", CPU)
def test_nt_xent(backend: str) -> None:
    z = unit(1, 14, 8, seed=1).requires_grad_()
    instance = (torch.arange(14) % 7).double().view(1, 14, 1)
    ours = flow_infonce(z, z, instance, instance, exclude_self=True, temperature=0.2, backend=backend, **SAME)
    assert_same_loss_and_gradient(ours, nt_xent(z[0], 0.2), [z])


@pytest.mark.parametrize("backend", CPU)
def test_supervised_contrast(backend: str) -> None:
    z = unit(1, 30, 8, seed=2).requires_grad_()
    labels = torch.randint(0, 5, (30,), generator=torch.Generator().manual_seed(0))
    labels[4] = 9  # an anchor without a positive
    guide = labels.double().view(1, 30, 1)
    ours = flow_infonce(z, z, guide, guide, exclude_self=True, temperature=0.1, backend=backend, **SAME)
    assert_same_loss_and_gradient(ours, supervised_contrast(z[0], labels, 0.1), [z])


@pytest.mark.parametrize("backend", CPU)
def test_pix_contrast(backend: str) -> None:
    generator = torch.Generator().manual_seed(5)
    q, k = (unit(1, n, 8, seed=n).requires_grad_() for n in (25, 36))
    place, key_place = (torch.rand(1, n, 2, generator=generator, dtype=torch.float64) * 6 for n in (25, 36))
    ours = flow_infonce(q, k, place, key_place, flow_kernel="tophat", bandwidth=0.7, positives="inside", symmetric=True,
                        temperature=0.3, backend=backend)  # fmt: skip
    assert_same_loss_and_gradient(ours, pix_contrast(q[0], k[0], place[0], key_place[0], 0.7, 0.3), [q, k])


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("scope", ["frame", "batch"])
def test_groups_are_exclude_self_in_general(backend: str, scope: str) -> None:
    z, flow = unit(2, 11, 8, seed=3), torch.randn(2, 11, 2, generator=torch.Generator().manual_seed(3)).double()
    own = torch.arange(22).view(2, 11)
    options = dict(backend=backend, scope=scope, symmetric=True, reduction="none")
    grouped = flow_infonce(z, z, flow, flow, query_group=own, key_group=own.int(), **options)
    excluded = flow_infonce(z, z, flow, flow, exclude_self=True, **options)
    lists = flow_infonce(*(list(x) for x in (z, z, flow, flow)), query_group=list(own), key_group=list(own), **options)
    for a, b, c in zip(grouped, excluded, lists, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(a, torch.stack(c), rtol=1e-12, atol=1e-12)
    plain = flow_infonce(z, z, flow, flow, **options)
    assert not torch.isclose(plain[0], grouped[0]).any()


def test_the_module_takes_both() -> None:
    generator = torch.Generator().manual_seed(2)
    view, flow = torch.randn(2, 8, 4, 5, generator=generator), torch.randn(2, 2, 4, 5, generator=generator)
    own = torch.arange(40).view(2, 4, 5)
    excluded = FlowInfoNCELoss(exclude_self=True)(view, view, flow, flow)
    torch.testing.assert_close(FlowInfoNCELoss()(view, view, flow, flow, query_group=own, key_group=own), excluded)
    with pytest.raises(ValueError, match="query_group: expected H x W = 4 x 5"):
        FlowInfoNCELoss()(view, view, flow, flow, query_group=own.mT, key_group=own)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (dict(query_group=torch.zeros(1, 9, dtype=torch.int64)), ValueError, "key_group: expected groups of both sides"),
        (dict(query_group=torch.zeros(1, 9), key_group=torch.zeros(1, 9)), TypeError, "query_group: expected dtype int64"),
        (dict(exclude_self=True, key_group=torch.zeros(1, 9, dtype=torch.int64)), ValueError, "key_group: expected None"),
        (dict(exclude_self=True, key=unit(1, 8, 4, seed=0), key_flow=torch.zeros(1, 8, 2)), ValueError, "key: expected B=1"),
    ],
)
def test_groups_that_cannot_be(given: dict, error: type[Exception], message: str) -> None:
    z, flow = unit(1, 9, 4, seed=0), torch.zeros(1, 9, 2)
    with pytest.raises(error, match=message):
        flow_infonce(**{**dict(query=z, key=z, query_flow=flow, key_flow=flow), **given})
