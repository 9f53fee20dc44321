"""The operators as torch citizens: opcheck, gradcheck, compile, autocast, partial gradients, determinism."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from laparoflow_kernels import FlowInfoNCELoss, flow_infonce, flow_weighted_sum
from laparoflow_kernels.arguments import PairArguments
from tests.numerics import unit

NAMESPACES = {"native": "laparoflow", "triton": "laparoflow_triton"}


def pair_args(device: str, symmetric: bool = False, dtype: torch.dtype = torch.float32, requires_grad: bool = True) -> list:
    generator = torch.Generator().manual_seed(0)
    q, k = unit(2, 5, 4, seed=0).flatten(0, 1), unit(2, 6, 4, seed=1).flatten(0, 1)
    flows = [torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (10, 12)]
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    return list(PairArguments(
        q.to(dtype).to(device).requires_grad_(requires_grad), k.to(dtype).to(device).requires_grad_(requires_grad),
        *(f.to(accumulator).to(device) for f in flows),
        torch.tensor(0.2, dtype=accumulator, device=device, requires_grad=requires_grad),
        torch.ones(2, dtype=accumulator, device=device),
        torch.tensor([0, 5, 10], device=device), torch.tensor([0, 6, 12], device=device),
        torch.rand(10, generator=generator).gt(0.2).to(device), None, None, None, 5, 6, "gaussian", "outside", "all",
        "frame", symmetric, False, True, torch.are_deterministic_algorithms_enabled(), True,
    ))  # fmt: skip


def ops(backend: str):
    return getattr(torch.ops, NAMESPACES[backend])


@pytest.mark.parametrize("symmetric", [False, True])
def test_opcheck_forward_and_backward(backend: str, device: str, symmetric: bool) -> None:
    args = pair_args(device, symmetric)
    opcheck(ops(backend).flow_infonce_forward.default, tuple(args))
    plain = [a.detach() if isinstance(a, torch.Tensor) else a for a in args]
    stats = ops(backend).flow_infonce_forward(*plain)
    grads = [torch.ones_like(s[:2]) for s in stats]
    for needs in ((True, True, True), (True, False, False), (False, True, False)):
        opcheck(ops(backend).flow_infonce_backward.default, (*plain, *stats, *grads, *needs))


def test_the_backward_indexes_by_no_tensor(backend: str, device: str) -> None:
    """An index by a list or a tensor is a copy to the GPU or a wait for it, and no CUDA graph captures it."""

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            assert function.overloadpacket is not torch.ops.aten.index
            return function(*args, **(kwargs or {}))

    q, k = (unit(1, 9, 4, seed=seed).float().to(device).requires_grad_() for seed in (1, 2))
    flow = torch.zeros(1, 9, 2, device=device)
    loss = flow_infonce(q, k, flow, flow, reduction="none", backend=backend).sum()
    with Watched():
        loss.backward()
    assert q.grad is not None


def test_opcheck_fused(backend: str, device: str) -> None:
    if (backend, device) != ("native", "cpu"):
        pytest.skip("the one-sweep form exists in the native CPU backend alone")
    plain = [a.detach() if isinstance(a, torch.Tensor) else a for a in pair_args(device)]
    opcheck(ops(backend).flow_infonce_fused.default, (*plain, "mean", True, True, True))
    # its gradient is right for the loss output alone (the others are by-products), so autograd is checked through the loss
    inputs = pair_args(device, dtype=torch.float64)
    q, k, t = inputs[0], inputs[1], inputs[4]
    assert torch.autograd.gradcheck(
        lambda *x: ops(backend).flow_infonce_fused(x[0], x[1], *inputs[2:4], x[2], *inputs[5:], "mean", True, True, True)[0],
        (q, k, t),
    )


def test_opcheck_weighted_sum(backend: str, device: str) -> None:
    args = pair_args(device)
    values = torch.randn(12, 3, device=device, requires_grad=True)
    opcheck(
        ops(backend).flow_weighted_sum.default,
        (args[2], args[3], values, args[5], args[6], args[7], None, None, 5, 6, "laplace"),
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("positives", "negatives"), [("outside", "all"), ("inside", "dissimilar")])
def test_gradcheck_float64(reduction: str, symmetric: bool, positives: str, negatives: str) -> None:
    q, k = unit(2, 5, 4, seed=0).requires_grad_(), unit(2, 7, 4, seed=1).requires_grad_()
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    f, g = (torch.randn(2, n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (5, 7))

    def loss(q, k, t):
        return flow_infonce(q, k, f, g, temperature=t, positives=positives, negatives=negatives, symmetric=symmetric,
                            reduction=reduction, backend="native")  # fmt: skip

    assert torch.autograd.gradcheck(loss, (q, k, t))


@torch._dynamo.config.patch(error_on_recompile=True)
def test_compile_fullgraph_dynamic_without_recompilation(backend: str, device: str) -> None:
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def step(q, k, f, g):
        return flow_infonce(q * 1.0, k, f, g, temperature=0.2, backend=backend)

    for n in (33, 40, 65, 70, 128):
        q, k = (unit(2, n, 8, seed=s).float().to(device).requires_grad_() for s in (0, 1))
        f, g = (torch.randn(2, n, 2).to(device) for _ in range(2))
        loss = step(q, k, f, g)
        eager = flow_infonce(q, k, f, g, temperature=0.2, backend=backend)
        torch.testing.assert_close(loss, eager, rtol=1e-5, atol=1e-6)
        for a, b in zip(torch.autograd.grad(loss, (q, k)), torch.autograd.grad(eager, (q, k)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_compiled_module_with_masks_and_auto_bandwidth(backend: str, device: str) -> None:
    torch._dynamo.reset()
    module = FlowInfoNCELoss(temperature=0.2, bandwidth="auto", symmetric=True, backend=backend)
    q, k = (torch.randn(2, 8, 6, 7, device=device, requires_grad=True) for _ in range(2))
    f, g = (torch.randn(2, 2, 6, 7, device=device) for _ in range(2))
    mask = torch.rand(2, 6, 7, device=device) > 0.3
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, f, g, mask, mask), module(q, k, f, g, mask, mask), rtol=1e-5, atol=1e-6)


def test_autocast_computes_in_its_dtype_and_keeps_float32_gradients(backend: str, device: str) -> None:
    q, k = (unit(1, 65, 32, seed=s).float().to(device).requires_grad_() for s in (0, 1))
    f = torch.randn(1, 65, 2, device=device)
    with torch.autocast(device, torch.bfloat16):
        loss = flow_infonce(q, k, f, f, backend=backend)
    expected = flow_infonce(q.bfloat16(), k.bfloat16(), f, f, backend=backend)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    assert torch.autograd.grad(loss, q)[0].dtype == torch.float32


def test_only_what_is_asked_for_gets_a_gradient(backend: str, device: str) -> None:
    f = torch.randn(1, 70, 2, device=device)
    full = None
    for needs in ((True, True), (True, False), (False, True)):
        q, k = (unit(1, 70, 8, seed=s).float().to(device).requires_grad_(need) for s, need in enumerate(needs))
        flow_infonce(q, k, f, f, backend=backend).backward()
        grads = (q.grad, k.grad)
        full = full or grads
        for need, grad, expected in zip(needs, grads, full, strict=True):
            assert (grad is None) != need
            if need:
                torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_deterministic_runs_are_bitwise_equal_for_any_number_of_threads(
    backend: str, device: str, symmetric: bool, dtype: torch.dtype
) -> None:
    q, k = (unit(2, 700, 16, seed=s).to(device, dtype).requires_grad_() for s in (0, 1))
    f = torch.randn(2, 700, 2, device=device)
    threads = torch.get_num_threads()
    results = []
    try:
        torch.use_deterministic_algorithms(True)
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            loss = flow_infonce(q, k, f, f, symmetric=symmetric, backend=backend)
            results.append((loss, *torch.autograd.grad(loss, (q, k))))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    # a GPU takes another way to the same gradients when nobody asks for fixed bits
    loss = flow_infonce(q, k, f, f, symmetric=symmetric, backend=backend)
    largest = max(x.abs().max() for x in results[0][1:]).item()
    for a, b in zip(results[0][1:], torch.autograd.grad(loss, (q, k)), strict=True):
        torch.testing.assert_close(a, b, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps * largest)


def test_loss_scale_reaches_half_precision_gradients(backend: str, device: str) -> None:
    """GradScaler multiplies the loss so that float16 gradients do not underflow: scaling must come before the rounding."""
    q, k = (unit(32, 400, 8, seed=s).half().to(device).requires_grad_() for s in (0, 1))
    f = torch.randn(32, 400, 2, device=device)
    (plain,) = torch.autograd.grad(flow_infonce(q, k, f, f, temperature=1.0, backend=backend), q)
    (scaled,) = torch.autograd.grad(flow_infonce(q, k, f, f, temperature=1.0, backend=backend) * 2.0**12, q)
    truth = q.detach().float().requires_grad_()
    (right,) = torch.autograd.grad(
        flow_infonce(truth, k.detach().float(), f, f, temperature=1.0, backend="reference"), truth
    )
    error = lambda x: ((x.float() - right).norm() / right.norm()).item()
    assert error(scaled.float() / 2.0**12) < 2e-3 < error(plain)


@pytest.mark.parametrize("made", [
    "query", "key", "query_flow", "key_flow", "query_mask", "key_mask", "temperature", "bandwidth",
])  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"reduction": "none"}])
def test_what_inference_mode_made_goes_into_a_gradient(backend: str, device: str, made: str, options: dict) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = {name: unit(2, 5, 4, seed=seed).float() for seed, name in enumerate(("query", "key"))}
    inputs |= {f"{name}_flow": torch.randn(2, 5, 2, generator=generator) for name in ("query", "key")}
    inputs |= {f"{name}_mask": torch.rand(2, 5, generator=generator) > 0.2 for name in ("query", "key")}
    inputs |= {"temperature": torch.tensor(0.2), "bandwidth": torch.ones(2)}
    inputs = {name: x.to(device) for name, x in inputs.items()}

    def gradient(of: str) -> torch.Tensor:
        x = inputs[of].detach().clone().requires_grad_()
        return torch.autograd.grad(flow_infonce(**{**inputs, of: x}, backend=backend, **options).sum(), x)[0]

    wanted = "key" if made == "query" else "query"
    right = gradient(wanted)
    with torch.inference_mode():
        inputs[made] = inputs[made].clone()
    assert torch.equal(gradient(wanted), right)
    for name in ("reference", backend):
        values = unit(2, 5, 4, seed=3).float().to(device).requires_grad_()
        guides = {name: inputs[name] for name in ("query_flow", "key_flow", "key_mask", "bandwidth")}
        flow_weighted_sum(**guides, values=values, backend=name).sum().backward()
