"""Every backend against float64 truth by the rule of tests/numerics.py: options, dtypes and hard inputs."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laparoflow_kernels import flow_infonce
from laparoflow_kernels.backends import BackendUnavailable
from laparoflow_kernels.problem import FLOW_KERNELS
from tests.numerics import Case, assert_within_rule, evaluate, make_case, unit

OPTIONS = [
    dict(flow_kernel=k, positives=p, negatives=n, scope=s, symmetric=y)
    for k, p, n, s, y in itertools.product(
        FLOW_KERNELS,
        ("outside", "inside"),
        ("all", "dissimilar"),
        ("frame", "batch"),
        (False, True),
    )
]
FORMS = [o for o in OPTIONS if o["flow_kernel"] == "gaussian" and o["scope"] == "frame"]
HALF = (torch.bfloat16, torch.float16)


def ids(options: dict) -> str:
    return "-".join(str(v) for v in options.values())


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_every_option_float32(backend: str, device: str, options: dict) -> None:
    assert_within_rule(make_case(70, 53, 17, masks=True, bandwidth=0.7, **options), torch.float32, backend, device)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_every_option_float64(backend: str, device: str, options: dict) -> None:
    if backend != "native" or device != "cpu":
        pytest.skip(
            "float64 is taken by the native CPU backend alone; the others refuse it (tests of the refusal: test_backends)"
        )
    assert_equal_in_float64(make_case(70, 53, 17, masks=True, bandwidth=0.7, **options), backend)


def assert_equal_in_float64(case: Case, backend: str, of_terms: float = 0.0) -> None:
    """Within 1e-10 of the quantity's own size; where it may be 0, of that of the terms that cancel."""
    truth, fused = (evaluate(case, torch.float64, b) for b in ("reference", backend))
    for name, right in truth.items():
        assert (fused[name] - right).abs().max() <= 1e-10 * max(right.abs().max().item(), of_terms), name


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("options", FORMS, ids=ids)
def test_half_precision(backend: str, device: str, dtype: torch.dtype, options: dict) -> None:
    assert_within_rule(make_case(65, 130, 32, masks=True, bandwidth=0.7, **options), dtype, backend, device)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 129), (63, 64), (64, 63), (65, 127), (129, 1000), (1000, 65)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_tile_edges(backend: str, device: str, n: int, m: int, symmetric: bool) -> None:
    case = make_case(n, m, 31, frames=1, symmetric=symmetric)
    assert_within_rule(case, torch.float32, backend, device, cancels=(n, m) == (1, 1))


@pytest.mark.parametrize("d", [1, 3, 31, 64, 96, 128, 200, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_widths(backend: str, device: str, d: int, dtype: torch.dtype) -> None:
    assert_within_rule(make_case(65, 129, d, frames=1), dtype, backend, device)


@pytest.mark.parametrize("d", [257, 384, 768, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_widths_of_tokens(backend: str, device: str, d: int, dtype: torch.dtype, symmetric: bool) -> None:
    """ViT tokens have 384 or 768 channels, which are taken without the matrix of pairs, but not by the CUDA kernels."""
    case = make_case(65, 70, d, frames=1, symmetric=symmetric)
    if (backend, device) == ("native", "cuda"):
        with pytest.raises(BackendUnavailable, match="D up to 256"):
            evaluate(case, dtype, backend, device)
    else:
        assert_within_rule(case, dtype, backend, device)


@pytest.mark.parametrize("channels", range(1, 9))
def test_flow_channels(backend: str, device: str, channels: int) -> None:
    assert_within_rule(make_case(33, 40, 8, frames=1, channels=channels, bandwidth=2.0), torch.float32, backend, device)


@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.025, 0.07, 0.3, 1.0])
@pytest.mark.parametrize("options", FORMS, ids=ids)
def test_temperatures(backend: str, device: str, temperature: float, options: dict) -> None:
    assert_within_rule(make_case(66, 70, 24, frames=1, temperature=temperature, **options), torch.float32, backend, device)


@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.026])
@pytest.mark.parametrize("options", [
    {"reduction": "none"},
    {"symmetric": True},
    {"reduction": "none", "negatives": "dissimilar"},
    {"reduction": "none", "positives": "inside"},
    {"symmetric": True, "positives": "inside", "negatives": "dissimilar"},
], ids=ids)  # fmt: skip
def test_one_key_outweighs_all_others(temperature: float, options: dict) -> None:
    """Keys equal to queries: lse is a logit, and its rounding is none of the gradient."""
    case = make_case(64, 64, 16, frames=1, temperature=temperature, **options)
    case.key = case.query.clone()
    assert_within_rule(case, torch.float32, "native", "cpu")


@pytest.mark.parametrize("temperature", [0.005, 0.01, 0.02, 0.03, 0.07, 1.0])
@pytest.mark.parametrize("flow_kernel", FLOW_KERNELS)
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"symmetric": True}], ids=ids)
def test_equal_flows_inside_are_exactly_zero_on_the_cpu(temperature: float, flow_kernel: str, options: dict) -> None:
    case = make_case(70, 75, 16, temperature=temperature, flow_kernel=flow_kernel, positives="inside", **options)
    case.query_flow.fill_(3.25)
    case.key_flow.fill_(3.25)
    outcome = evaluate(case, torch.float32, "native")
    assert not any(value.any() for value in outcome.values()), {name: value.abs().max() for name, value in outcome.items()}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_all_logits_negative_in_ragged_tiles(backend: str, device: str, positives: str, symmetric: bool) -> None:
    """A padded pixel would bring exp(0), far above every true term."""
    case = make_case(65, 67, 16, frames=1, temperature=0.01, positives=positives, symmetric=symmetric, bandwidth=2.0)
    centre = torch.nn.functional.normalize(torch.ones(16, dtype=torch.float64), dim=0)
    case.query = torch.nn.functional.normalize(centre + 0.05 * unit(1, 65, 16, seed=3), dim=-1)
    case.key = torch.nn.functional.normalize(-centre + 0.05 * unit(1, 67, 16, seed=4), dim=-1)
    assert_within_rule(case, torch.float32, backend, device)


@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_equal_flows(backend: str, device: str, positives: str) -> None:
    case = make_case(40, 70, 16, positives=positives)
    case.query_flow.fill_(3.25)
    case.key_flow.fill_(3.25)
    assert_within_rule(case, torch.float32, backend, device, cancels=positives == "inside")


@pytest.mark.parametrize("flow_kernel", FLOW_KERNELS)
def test_flows_of_ten_thousand_pixels(backend: str, device: str, flow_kernel: str) -> None:
    """|f - g|^2 expanded into f^2 - 2 f g + g^2 loses every digit here."""
    case = make_case(40, 70, 16, flow_kernel=flow_kernel, bandwidth=0.7)
    case.query_flow.add_(1e4)
    case.key_flow.add_(1e4)
    assert_within_rule(case, torch.float32, backend, device)


def test_inside_positives_far_below_the_maximum(backend: str, device: str) -> None:
    """Each query's only positive lies 2/t = 200 below its largest logit: it must be found in log space."""
    case = make_case(64, 64, 8, frames=1, temperature=0.01, positives="inside", flow_kernel="tophat", bandwidth=0.5)
    case.key = -case.query.clone()
    case.query_flow = case.key_flow = torch.arange(64, dtype=torch.float64)[None, :, None].expand(1, 64, 2).contiguous() * 10
    assert_within_rule(case, torch.float32, backend, device)


def test_inside_weights_near_the_smallest_float(backend: str, device: str) -> None:
    """Weights of 1e-30 and logits down to -30: the product underflows, the loss is finite."""
    case = make_case(20, 30, 8, frames=1, temperature=1 / 30, positives="inside", bandwidth=1.0)
    case.query_flow.zero_()
    case.key_flow.zero_()
    case.key_flow[..., 0] = 11.5 + 0.2 * torch.rand(1, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_within_rule(case, torch.float32, backend, device)


@pytest.mark.parametrize("upstream", [1e-30, 1.0, 65536.0])
@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_weight_sums_down_to_the_smallest_float(
    backend: str, device: str, dtype: torch.dtype, positives: str, upstream: float
) -> None:
    """Queries at up to 13.2 bandwidths from all keys, so W is 2^-126 there: the upstream gradient over W is no float32."""
    for symmetric in (False, True):
        case = make_case(70, 60, 24, frames=1, motion=0.01, temperature=0.5, positives=positives, symmetric=symmetric)
        case.query_flow[..., 0] += 13.2 * torch.linspace(0, 1, 70, dtype=torch.float64) ** 4
        assert_within_rule(case, dtype, backend, device, upstream=upstream)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_reductions(backend: str, device: str, reduction: str, symmetric: bool) -> None:
    case = make_case(50, 40, 12, masks=True, reduction=reduction, symmetric=symmetric)
    assert_within_rule(case, torch.float32, backend, device)


def test_converged_regime_bf16_gradients(backend: str, device: str) -> None:
    """p and w / W nearly cancel: subtracting them in bf16 costs over 5 % of the gradient, the backend loses at most 1 %."""
    torch.manual_seed(0)
    n, d = 256, 32
    labels = torch.arange(n) % 8
    centres = torch.linalg.qr(torch.randn(d, 8, dtype=torch.float64))[0].T
    flow = torch.zeros(1, n, 2, dtype=torch.float64)
    flow[0, :, 0] = 100.0 * labels
    noisy = torch.nn.functional.normalize(centres[labels] + 0.02 * torch.randn(n, d, dtype=torch.float64), dim=-1)[None]
    query, key = noisy.bfloat16(), noisy.flip(1).bfloat16()
    key_flow = flow.flip(1)

    def gradients(dtype: torch.dtype, name: str, where: str) -> torch.Tensor:
        q = query.to(dtype).to(where).requires_grad_()
        loss = flow_infonce(q, key.to(dtype).to(where), flow.float().to(where), key_flow.float().to(where), temperature=0.15,
                            bandwidth=1.0, backend=name)  # fmt: skip
        return torch.autograd.grad(loss, q)[0].double().cpu()

    truth = gradients(torch.float64, "reference", "cpu")
    error = (gradients(torch.bfloat16, backend, device) - truth).norm() / truth.norm()

    q, k = query[0].clone().requires_grad_(), key[0]
    p = torch.softmax((q @ k.T) / 0.15, -1)
    w = (flow[0][:, None] - key_flow[0][None]).norm(dim=-1).lt(1).bfloat16()
    naive = ((p - w / w.sum(-1, keepdim=True)) @ k / 0.15 / n).double()
    naive_error = (naive - truth[0]).norm() / truth.norm()
    assert naive_error > 0.05, f"the case is too easy: a bf16 evaluation is only {naive_error:.3f} off"
    assert error <= 0.01, f"{error:.4f} off (a bf16 evaluation: {naive_error:.3f})"


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.integers(1, 3), n=st.integers(1, 140), m=st.integers(1, 140), d=st.integers(1, 70), channels=st.integers(1, 8),
    seed=st.integers(0, 1000), options=st.sampled_from(OPTIONS),
    layout=st.sampled_from(["contiguous", "channels_first", "stepped", "expanded"]),
)  # fmt: skip
def test_random_shapes_and_strides(
    backend: str, device: str, frames: int, n: int, m: int, d: int, channels: int, seed: int, options: dict, layout: str
) -> None:
    """Shapes of a few pixels or channels in float64: there a gradient is a difference of two or three nearly equal terms,
    and which of two float32 results is twice as near to it is chance. So native alone, the one that takes float64."""
    tiny = min(n, m) < 8 or d < 4
    if tiny and backend != "native":
        return
    case = make_case(n, m, d, frames=frames, channels=channels, seed=seed, bandwidth=1.5, masks=n > 4 and m > 4, **options)
    if layout == "channels_first":
        case.query, case.key = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (case.query, case.key))
    elif layout == "stepped":
        case.query = torch.stack([case.query, case.query], 2).flatten(1, 2)[:, ::2]
        case.key_flow = torch.stack([case.key_flow, case.key_flow], 3).flatten(2, 3)[..., ::2]
    elif layout == "expanded" and "key_mask" not in case.options:
        case.key = case.key[:, :1].expand_as(case.key)
    if tiny:
        assert_equal_in_float64(case, backend, of_terms=1e-3)
    else:
        assert_within_rule(case, torch.float32, backend, device)
