"""Three identities of the loss: constant weights, one-hot weights, weights from coordinates."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from laparoflow_kernels import flow_infonce, flow_weighted_sum, pairwise_flow_weights
from laparoflow_kernels.problem import FLOW_KERNELS
from tests.numerics import unit


def inputs(n: int = 70, d: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return unit(2, n, d, seed=0).float(), unit(2, n, d, seed=1).float()


def test_constant_weights_average_over_all_positives(backend: str, device: str) -> None:
    q, k = (x.to(device) for x in inputs())
    flow = torch.zeros(2, 70, 2, device=device)
    loss = flow_infonce(q, k, flow, flow, temperature=0.2, backend=backend)
    log_p = F.log_softmax(q @ k.transpose(1, 2) / 0.2, -1)
    torch.testing.assert_close(loss, -log_p.mean(), rtol=1e-5, atol=0)


def test_one_hot_weights_are_plain_infonce(backend: str, device: str) -> None:
    q, k = (x.to(device) for x in inputs())
    flow = torch.arange(70.0, device=device)[None, :, None].expand(2, 70, 2) * 1000
    for positives in ("outside", "inside"):
        loss = flow_infonce(q, k, flow, flow, temperature=0.2, positives=positives, backend=backend)
        targets = torch.arange(70, device=device).repeat(2)
        plain = F.cross_entropy((q @ k.transpose(1, 2) / 0.2).flatten(0, 1), targets)
        torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0)


def test_coordinates_as_guide_are_pixcontrast(backend: str, device: str) -> None:
    """Pixels nearer than a threshold are positives of each other; positives inside the logarithm, as in PixContrast."""
    q, k = (x.to(device) for x in inputs(64))
    ys, xs = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    grid = torch.stack([xs, ys], -1).flatten(0, 1).to(device)
    loss = flow_infonce(
        q, k, grid.expand(2, 64, 2), (grid + 0.3).expand(2, 64, 2), temperature=0.3, bandwidth=1.6, flow_kernel="tophat",
        positives="inside", backend=backend,
    )  # fmt: skip
    near = torch.cdist(grid, grid + 0.3) <= 1.6
    e = torch.exp(q @ k.transpose(1, 2) / 0.3)
    expected = -torch.log((e * near).sum(-1) / e.sum(-1)).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tophat_counts_pixels_at_exactly_its_radius(backend: str, device: str, dtype: torch.dtype) -> None:
    """On a grid of whole pixels many pairs lie at r = 1, where r^2 (1 / bandwidth)^2 may round to more than 1."""
    if dtype == torch.float64 and device != "cpu":
        dtype = torch.float32  # the GPU kernels refuse float64
    x = torch.arange(45, dtype=dtype, device=device)[None, :, None]
    ones = torch.ones_like(x)
    for bandwidth in range(1, 41):
        expected = (torch.cdist(x, x) <= bandwidth + 0.1).sum(-1, keepdim=True).to(dtype)
        given = flow_weighted_sum(x, x, ones, bandwidth=bandwidth, flow_kernel="tophat", backend=backend)
        assert torch.equal(given, expected), bandwidth
        reference = flow_weighted_sum(x, x, ones, bandwidth=bandwidth, flow_kernel="tophat", backend="reference")
        assert torch.equal(reference, expected), bandwidth


@pytest.mark.parametrize("scope", ["frame", "batch"])
def test_tophat_weights_of_the_loss_at_exactly_its_radius(backend: str, device: str, scope: str) -> None:
    q = inputs(64)[0][:1].to(device)
    grid = 900 + torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))[None].to(device)
    expected = (torch.cdist(grid, grid) <= 5.01).sum(-1).to(q.dtype)
    for name in (backend, "reference"):
        _, stats = flow_infonce(
            q, q, grid, grid, bandwidth=5, flow_kernel="tophat", scope=scope, return_stats=True, backend=name
        )  # fmt: skip
        assert torch.equal(stats.rows.weight_sum, expected), name


def test_weighted_sum_is_the_dense_product(backend: str, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    f, g, v = (torch.randn(2, n, c, generator=generator) for n, c in ((65, 3), (130, 3), (130, 5)))
    keep = torch.rand(2, 130, generator=generator) > 0.3
    v = v.masked_fill(~keep[..., None], torch.nan)
    for kernel in FLOW_KERNELS:
        for normalize in (False, True):
            values = v.clone().to(device).requires_grad_()
            out = flow_weighted_sum(f.to(device), g.to(device), values, bandwidth=0.8, flow_kernel=kernel,
                                    key_mask=keep.to(device),
                                    normalize=normalize, backend=backend)  # fmt: skip
            w = pairwise_flow_weights(f.double(), g.double(), bandwidth=0.8, flow_kernel=kernel, key_mask=keep)
            if normalize:
                w = w / w.sum(-1, keepdim=True).clamp(min=1e-300)
            dense = w @ v.double().nan_to_num()
            torch.testing.assert_close(out.cpu().double(), dense, rtol=1e-5, atol=1e-6)
            grad = torch.randn(out.shape, generator=generator)
            (dvalues,) = torch.autograd.grad(out, values, grad.to(device))
            torch.testing.assert_close(dvalues.cpu().double(), w.transpose(1, 2) @ grad.double(), rtol=1e-5, atol=1e-6)


def test_ragged_list_equals_the_loop_over_frames(backend: str, device: str) -> None:
    sizes_q, sizes_k = (5, 64, 100), (70, 3, 65)
    qs = [unit(n, 12, seed=n).float().to(device).requires_grad_() for n in sizes_q]
    ks = [unit(n, 12, seed=n + 1).float().to(device).requires_grad_() for n in sizes_k]
    fs, gs = (
        [torch.randn(n, 2, generator=torch.Generator().manual_seed(n)).to(device) for n in s] for s in (sizes_q, sizes_k)
    )
    packed = flow_infonce(qs, ks, fs, gs, reduction="sum", backend=backend)
    grads = torch.autograd.grad(packed, [*qs, *ks])
    loop = sum(
        flow_infonce(q[None], k[None], f[None], g[None], reduction="sum", backend=backend)
        for q, k, f, g in zip(qs, ks, fs, gs, strict=True)
    )
    torch.testing.assert_close(packed, loop, rtol=1e-6, atol=0)
    for a, b in zip(grads, torch.autograd.grad(loop, [*qs, *ks]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    none = flow_infonce(qs, ks, fs, gs, reduction="none", backend=backend)
    assert [x.shape[0] for x in none] == list(sizes_q)
