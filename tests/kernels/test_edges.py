"""What has no positives, no keys, no pixels, NaN under a mask, or more rows than fit: defined results, warnings, errors."""

from __future__ import annotations

import contextlib
import math
import os

import pytest
import torch

from laparoflow_kernels import (
    BackendUnavailable,
    FlowInfoNCELoss,
    backends,
    flow_infonce,
    flow_weighted_sum,
    pairwise_flow_weights,
    robust_flow_spread,
)
from laparoflow_kernels.problem import FLOW_KERNELS
from tests.numerics import unit


def data(n: int = 20, m: int = 24, d: int = 8, frames: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    q, k = (unit(frames, s, d, seed=s).float().requires_grad_() for s in (n, m))
    return [q, k, torch.randn(frames, n, 2, generator=generator), torch.randn(frames, m, 2, generator=generator)]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("why", ["masked queries", "masked keys", "no positive", "no keys", "no queries"])
def test_nothing_valid_gives_zero_loss_zero_gradients_and_a_warning(
    backend: str, device: str, symmetric: bool, reduction: str, why: str
) -> None:
    q, k, f, g = (x.detach().to(device) for x in data())
    options = {}
    if why == "masked queries":
        options["query_mask"] = torch.zeros(2, 20, dtype=torch.bool, device=device)
    elif why == "masked keys":
        options["key_mask"] = torch.zeros(2, 24, dtype=torch.bool, device=device)
    elif why == "no positive":
        f = f + 1e4
    elif why == "no keys":
        k, g = k[:, :0], g[:, :0]
    else:
        q, f = q[:, :0], f[:, :0]
    q.requires_grad_()
    k.requires_grad_()
    with pytest.warns(RuntimeWarning, match="no valid query") if device == "cpu" else contextlib.nullcontext():
        loss = flow_infonce(q, k, f, g, symmetric=symmetric, reduction=reduction, backend=backend, **options)
    assert loss.item() == 0
    loss.backward()
    assert q.grad is not None and k.grad is not None
    assert (q.grad == 0).all()
    assert (k.grad == 0).all()


def test_one_frame_entirely_masked_leaves_the_others_alone(backend: str, device: str) -> None:
    q, k, f, g = (x.detach().to(device) for x in data())
    mask = torch.ones(2, 20, dtype=torch.bool, device=device)
    mask[1] = False
    q[1] = torch.nan
    both = flow_infonce(q, k, f, g, query_mask=mask, backend=backend)
    torch.testing.assert_close(both, flow_infonce(q[:1], k[:1], f[:1], g[:1], backend=backend))


def test_masked_pixels_may_hold_nan_and_get_zero_gradient(backend: str, device: str) -> None:
    q, k, f, g = (x.detach().to(device) for x in data())
    q_mask, k_mask = (torch.rand(2, n, generator=torch.Generator().manual_seed(n)).gt(0.3).to(device) for n in (20, 24))
    results = []
    for filler in (0.0, torch.nan, torch.inf):
        q2, f2 = (x.masked_fill(~q_mask[..., None], filler) for x in (q, f))
        k2, g2 = (x.masked_fill(~k_mask[..., None], filler) for x in (k, g))
        q2.requires_grad_()
        k2.requires_grad_()
        for symmetric in (False, True):
            loss = flow_infonce(q2, k2, f2, g2, query_mask=q_mask, key_mask=k_mask, symmetric=symmetric, backend=backend)
            dq, dk = torch.autograd.grad(loss, (q2, k2))
            assert (dq[~q_mask] == 0).all()
            assert (dk[~k_mask] == 0).all()
            results.append((symmetric, loss, dq, dk))
    for symmetric, *values in results[2:]:
        for a, b in zip(values, results[symmetric][1:], strict=True):
            torch.testing.assert_close(a, b)


def test_nan_in_a_valid_embedding_reaches_the_loss(backend: str, device: str) -> None:
    q, k, f, g = (x.detach().to(device) for x in data())
    q[0, 3, 1] = torch.nan
    for symmetric in (False, True):
        assert flow_infonce(q, k, f, g, symmetric=symmetric, backend=backend).isnan()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("frames", [1, 3])
def test_a_frame_of_one_pixel_has_no_loss(backend: str, device: str, symmetric: bool, frames: int) -> None:
    """One query and one key: softmax and weight are both 1, in each direction and in each frame. Exactly so in native; up to
    roundings of the logit elsewhere."""
    q, k, f, _ = (x.detach().to(device) for x in data(1, 1, 3, frames))
    q.requires_grad_()
    loss = flow_infonce(q, k, f, f.clone(), temperature=0.03, symmetric=symmetric, backend=backend)
    loss.backward()
    roundings = 0.0 if backend == "native" and device == "cpu" else 4 * torch.finfo(torch.float32).eps / 0.03
    assert abs(loss.item()) <= roundings
    assert q.grad.abs().max() <= roundings / 0.03


def test_statistics_agree_with_dense_formulas(backend: str, device: str) -> None:
    q, k, f, g = (x.detach().to(device) for x in data())
    for kernel in FLOW_KERNELS:
        loss, stats = flow_infonce(
            q, k, f, g, temperature=0.2, flow_kernel=kernel, symmetric=True, return_stats=True, backend=backend
        )
        w = pairwise_flow_weights(f, g, flow_kernel=kernel)
        s = q @ k.transpose(1, 2) / 0.2
        p = w / w.sum(-1, keepdim=True).clamp(min=1e-30)
        torch.testing.assert_close(stats.rows.lse, s.logsumexp(-1))
        torch.testing.assert_close(stats.rows.weight_sum, w.sum(-1))
        torch.testing.assert_close(stats.rows.entropy, torch.special.entr(p).sum(-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stats.columns.lse, s.logsumexp(1))
        torch.testing.assert_close(stats.columns.positive, (w * s).sum(1) / w.sum(1).clamp(min=1e-30))
        torch.testing.assert_close(
            loss, (stats.rows.loss[stats.rows.valid].mean() + stats.columns.loss[stats.columns.valid].mean()) / 2
        )
        kl = torch.where(p > 0, p * (p.log() - s.log_softmax(-1)), 0).sum(-1)
        torch.testing.assert_close(stats.rows.excess, kl, rtol=1e-3, atol=1e-4)
        assert not stats.rows.lse.requires_grad


def test_maps_in_any_memory_format_and_learned_temperature(backend: str, device: str) -> None:
    q, k = (torch.randn(2, 8, 5, 6, device=device) for _ in range(2))
    f, g = (torch.randn(2, 2, 5, 6, device=device) for _ in range(2))
    module = FlowInfoNCELoss(torch.nn.Parameter(torch.tensor(0.2, device=device)), bandwidth=0.8, backend=backend)
    loss = module(q, k, f, g)
    loss.backward()
    assert module.temperature.grad.abs() > 0
    last = module(q.to(memory_format=torch.channels_last), k, f, g)
    tokens = module(*(x.flatten(2).transpose(1, 2) for x in (q, k, f, g)))
    torch.testing.assert_close(last, loss)
    torch.testing.assert_close(tokens, loss)


def test_robust_spread_ignores_outliers_and_masked_pixels() -> None:
    flow = torch.randn(1, 2000, 2, generator=torch.Generator().manual_seed(0)) * 3
    mask = torch.ones(1, 2000, dtype=torch.bool)
    flow[:, :20] = 1e4
    mask[:, 200:300] = False
    flow[:, 200:300] = torch.nan
    assert robust_flow_spread(flow, mask).item() == pytest.approx(3 * 2**0.5, rel=0.05)
    assert robust_flow_spread(torch.zeros(1, 0, 2)).item() == 0.25


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            dict(query=torch.zeros(2, 20)),
            ValueError,
            r"query: expected 3 dimensions \[B, N, channels\], got shape \[2, 20\]",
        ),
        (dict(query="x"), TypeError, r"query: expected a torch.Tensor"),
        (dict(query=torch.zeros(2, 20, 8, dtype=torch.int64)), TypeError, r"query: expected dtype float32.*got torch.int64"),
        (
            dict(key=torch.zeros(2, 24, 8, dtype=torch.float64)),
            TypeError,
            r"key: expected dtype torch.float32 like query, got torch.float64",
        ),
        (dict(key=torch.zeros(2, 24, 9)), ValueError, r"key: expected D=8 channels like query, got 9"),
        (dict(query=[]), ValueError, r"query: expected at least one frame, got an empty list"),
        (dict(key=torch.zeros(3, 24, 8)), ValueError, r"key: expected B=2 frames like query, got 3"),
        (
            dict(query_flow=torch.zeros(2, 21, 2)),
            ValueError,
            r"query_flow: expected B=2 frames of 20 pixels.*got B=2 frames of 21",
        ),
        (dict(query_flow=torch.zeros(2, 20, 9)), ValueError, r"query_flow: expected 1 to 8 channels"),
        (dict(key_flow=torch.zeros(2, 24, 3)), ValueError, r"key_flow: expected F=2 channels like query_flow, got 3"),
        (dict(key_flow=torch.full((2, 24, 2), torch.nan)), ValueError, r"key_flow: expected finite flow.*\[0, 0\]"),
        (dict(query_mask=torch.ones(2, 20)), TypeError, r"query_mask: expected dtype torch.bool"),
        (dict(key_mask=torch.ones(2, 20, dtype=torch.bool)), ValueError, r"key_mask: expected shape"),
        (dict(temperature=0.0), ValueError, r"temperature: expected a finite number > 0, got 0.0"),
        (dict(temperature=-1), ValueError, r"temperature: .*got -1"),
        (dict(temperature=math.nan), ValueError, r"temperature"),
        (dict(temperature=torch.tensor(-0.1)), ValueError, r"temperature: expected finite values > 0"),
        (
            dict(temperature=torch.tensor([0.1, 0.2])),
            ValueError,
            r"temperature: expected a float or a tensor of one element, got \[2\]",
        ),
        (dict(temperature="hot"), TypeError, r"temperature: expected a number"),
        (dict(bandwidth=0.0), ValueError, r"bandwidth: expected a finite number > 0"),
        (dict(bandwidth=torch.ones(3)), ValueError, r"bandwidth: .*\[B=2\], got shape \[3\]"),
        (dict(flow_kernel="box"), ValueError, r"flow_kernel: expected one of 'gaussian'.*got 'box'"),
        (dict(positives="both"), ValueError, r"positives: expected one of"),
        (dict(negatives="none"), ValueError, r"negatives: expected one of"),
        (dict(scope="world"), ValueError, r"scope: expected one of"),
        (dict(reduction="max"), ValueError, r"reduction: expected one of"),
        (dict(backend="cuda"), ValueError, r"backend: expected 'auto' or one of"),
    ],
)
def test_bad_input_names_the_argument(change: dict, error: type[Exception], match: str) -> None:
    q, k, f, g = data()
    arguments = {"query": q, "key": k, "query_flow": f, "key_flow": g, **change}
    with pytest.raises(error, match=match):
        flow_infonce(**arguments)


def test_bad_input_of_the_other_functions() -> None:
    flow = torch.zeros(1, 4, 2)
    with pytest.raises(ValueError, match="flow_kernel"):
        flow_weighted_sum(flow, flow, torch.zeros(1, 4, 1), flow_kernel="box")
    with pytest.raises(ValueError, match="key_flow: expected B=1 frames of 5 pixels"):
        flow_weighted_sum(flow, flow, torch.zeros(1, 5, 1))
    with pytest.raises(ValueError, match="key_flow: expected F=2"):
        pairwise_flow_weights(flow, torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="bandwidth: expected a number or 'auto'"):
        FlowInfoNCELoss(bandwidth="wide")
    with pytest.raises(ValueError, match=r"query: expected a map"):
        FlowInfoNCELoss()(torch.zeros(2, 3), torch.zeros(2, 3), flow, flow)


def test_explicit_backend_raises_its_reason() -> None:
    """Triton takes D up to 1024, everywhere; on a CPU it also needs its interpreter."""
    flow = torch.zeros(1, 4, 2)
    with pytest.raises(BackendUnavailable, match=r"backend 'triton' cannot run on cpu torch.float32, D=1025: .* up to 1024"):
        flow_infonce(torch.zeros(1, 4, 1025), torch.zeros(1, 4, 1025), flow, flow, backend="triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        reason = r"backend 'triton' cannot run on cpu .*(TRITON_INTERPRET=1|triton is not installed)"
        with pytest.raises(BackendUnavailable, match=reason):
            flow_infonce(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8), flow, flow, backend="triton")


def test_backends_reports_available_or_the_reason() -> None:
    states = backends()
    assert set(states) == {"reference", "native", "triton"}
    assert states["reference"]["cpu"] == "available"
    assert states["native"]["cpu"] == "available", "the native CPU backend must be built for the tests"
    if not torch.cuda.is_available():
        assert states["triton"]["cuda"] != "available"


def test_a_mask_tensor_for_frames_of_several_sizes_is_refused(backend: str, device: str) -> None:
    """Padded masks would be read as if they were packed."""
    sizes = (6, 4, 6)
    q = [unit(1, n, 4, seed=n)[0].float().to(device) for n in sizes]
    f = [torch.randn(n, 2).to(device) for n in sizes]
    padded = torch.ones(3, 6, dtype=torch.bool, device=device)
    for side in ("query_mask", "key_mask"):
        with pytest.raises(TypeError, match=rf"{side}: expected a list of masks, one for each of its frames of \[6, 4, 6\]"):
            flow_infonce(q, q, f, f, backend=backend, **{side: padded})
    same, flows = [q[0], q[2]], [f[0], f[2]]  # of one size a tensor is as good as a list
    mask = torch.rand(2, 6, device=device) > 0.3
    torch.testing.assert_close(
        flow_infonce(same, same, flows, flows, query_mask=mask, backend=backend),
        flow_infonce(same, same, flows, flows, query_mask=list(mask), backend=backend),
    )


def test_the_operator_itself_refuses_a_mask_of_another_length() -> None:
    flow = torch.zeros(6, 2)
    offsets, one = torch.tensor([0, 6]), torch.ones(1)
    with pytest.raises(ValueError, match=r"mask: expected \[6\], got \[4\]"):
        torch.ops.laparoflow.flow_weighted_sum(
            flow, flow, flow, one, offsets, offsets, None, torch.zeros(4, dtype=torch.bool), 6, 6, "gaussian"
        )
    falling = torch.tensor([0, 9, 6])
    with pytest.raises(ValueError, match="offsets: expected to rise"):
        torch.ops.laparoflow.flow_weighted_sum(
            flow, flow, flow, torch.ones(2), falling, falling, None, None, 9, 9, "gaussian"
        )  # fmt: skip
    with pytest.raises(ValueError, match="max_query: expected at least 6, the rows of frame 0, got 5"):
        torch.ops.laparoflow.flow_weighted_sum(flow, flow, flow, one, offsets, offsets, None, None, 5, 6, "gaussian")


def test_bandwidths_whose_inverse_square_is_no_number() -> None:
    q, k, f, g = data()
    for bandwidth in (1e-20, 1e-45, torch.full((2,), 1e-20)):
        with pytest.raises(ValueError, match=r"bandwidth: expected at least 2\.2e-19, got"):
            flow_infonce(q, k, f, g, bandwidth=bandwidth)
    assert torch.isfinite(flow_infonce(q, q, f, f, bandwidth=1e-18))
    assert torch.isfinite(flow_infonce(q.double(), q.double(), f, f, bandwidth=1e-20))


def test_nothing_at_all_in_the_reference() -> None:
    assert pairwise_flow_weights(torch.zeros(2, 0, 2), torch.zeros(2, 3, 2)).shape == (2, 0, 3)
    empty = torch.zeros(0, 5, 2)
    with pytest.warns(RuntimeWarning, match="no valid query"):
        assert flow_infonce(empty, empty, empty, empty, scope="batch", backend="reference") == 0


@pytest.mark.parametrize("temperature", [1e-3, 1e-4, 1e-5])
def test_how_exact_gradients_are_at_the_least_temperatures(backend: str, device: str, temperature: float) -> None:
    """Logits of unit vectors are known to a rounding over the temperature, and gradients to a few times that on the CPU.

    Where the log of the sum is held as one number, its own rounding makes it a rounding over the square of the temperature.
    """
    query = unit(1, 1, 16, seed=1)
    key = torch.nn.functional.normalize(query + 4 * temperature * unit(1, 40, 16, seed=2), dim=-1)  # logits differ by 1
    flow = torch.randn(1, 41, 2, generator=torch.Generator().manual_seed(3))
    gradients = []
    for dtype, where, name in ((torch.float64, "cpu", "reference"), (torch.float32, device, backend)):
        q = query.float().to(where, dtype).requires_grad_()
        loss = flow_infonce(q, key.float().to(where, dtype), *(x.to(where, dtype) for x in (flow[:, :1], flow[:, 1:])),
                            temperature=temperature, bandwidth=2.0, backend=name)  # fmt: skip
        gradients.append(torch.autograd.grad(loss, q)[0].double().cpu())
    right, got = gradients
    assert right.norm() > 0.05
    eps, apart = torch.finfo(torch.float32).eps, backend == "native" and device == "cpu"
    assert (got - right).norm() <= (4 * eps / temperature if apart else eps / temperature**2)
