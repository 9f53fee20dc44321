"""The Triton backend behind the public functions, in the interpreter: agreement, gradients, registration, compile."""

import pytest
import torch
from problems import problem
from torch.autograd import gradcheck

from laparoflow_kernels import backends, flow_infonce, flow_weighted_sum
from laparoflow_kernels.backends import triton_backend


def arguments(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(2, n, 5, generator=generator, dtype=dtype) for n in (9, 11))
    flows = (torch.randn(2, n, 2, generator=generator, dtype=dtype) for n in (9, 11))
    return (query, key, *flows)


@pytest.mark.parametrize("options", [{}, {"positives": "inside", "symmetric": True, "negatives": "dissimilar"}])
def test_gradcheck_of_query_key_and_temperature(options: dict) -> None:
    query, key, query_flow, key_flow = arguments()
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def loss(q: torch.Tensor, k: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return flow_infonce(q, k, query_flow, key_flow, temperature=t, backend="triton", **options)

    assert gradcheck(loss, (query.requires_grad_(), key.requires_grad_(), temperature), fast_mode=True)


def test_weighted_sum_and_its_gradient_equal_the_reference() -> None:
    _, _, query_flow, key_flow = arguments(torch.float32)
    mask = torch.arange(22).reshape(2, 11) % 3 > 0
    values = torch.randn(2, 11, 70, generator=torch.Generator().manual_seed(2))
    results = []
    for backend in ("triton", "reference"):
        v = values.clone().masked_fill(~mask[..., None], torch.nan).requires_grad_()
        sums = flow_weighted_sum(query_flow, key_flow, v, bandwidth=0.8, key_mask=mask, backend=backend)
        sums.square().sum().backward()
        results.append((sums.detach(), v.grad[mask]))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_opcheck() -> None:
    triton_backend.statistics(problem((5,), (6,), 4))
    p = problem((5, 4), (6, 3), 4, symmetric=True)
    op = torch.ops.laparoflow_triton.flow_infonce_forward.default
    inputs = list(p.op_args())
    inputs[0], inputs[1] = inputs[0].requires_grad_(), inputs[1].requires_grad_()
    # the schema test compares outputs with NaN-free equality; statistics of non-empty rows are finite
    torch.library.opcheck(op, tuple(inputs), test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


def test_compile_has_no_graph_break() -> None:
    query, key, query_flow, key_flow = arguments(torch.float32)
    query.requires_grad_()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(q: torch.Tensor) -> torch.Tensor:
        return flow_infonce(q, key, query_flow, key_flow, backend="triton")

    compiled = loss(query)
    (gradient,) = torch.autograd.grad(compiled, query)
    eager = flow_infonce(query, key, query_flow, key_flow, backend="triton")
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(gradient, torch.autograd.grad(eager, query)[0])


def test_the_registry_reports_the_interpreter_as_available() -> None:
    assert backends()["triton"]["cpu"] == "available"
