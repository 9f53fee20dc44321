"""Inputs that people have and no kernel takes are refused by name; numbers of NumPy and mixed dtypes under autocast work."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from laparoflow_kernels import FlowInfoNCELoss, flow_infonce
from tests.numerics import unit

BACKENDS = ["reference", "native"]


def inputs() -> list[Tensor]:
    flow = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0))
    return [unit(2, 6, 4, seed=1).float(), unit(2, 6, 4, seed=2).float(), flow, flow]


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("backend", BACKENDS)
def test_distributed_tensors_are_refused_by_name(one_process: None, backend: str) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (1,))
    sharded = [distribute_tensor(x, mesh, [Shard(0)]) for x in inputs()]
    for call in (lambda *x: flow_infonce(*x, backend=backend), FlowInfoNCELoss(backend=backend)):
        for given in (sharded, [sharded[0], *inputs()[1:]]):
            with pytest.raises(TypeError, match=r"query: expected a plain tensor, got a DTensor: pass x\.to_local\(\)"):
                call(*given)
    temperature = distribute_tensor(torch.tensor([0.1]), mesh, [Replicate()])
    with pytest.raises(TypeError, match="temperature: expected a plain tensor, got a DTensor"):
        flow_infonce(*inputs(), temperature=temperature, backend=backend)


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_nested_and_sparse_tensors_are_refused_by_name(layout: torch.layout) -> None:
    nested = [torch.nested.nested_tensor([x[0], x[1][:4]], layout=layout) for x in inputs()]
    for call in (flow_infonce, FlowInfoNCELoss()):
        with pytest.raises(TypeError, match=r"query: expected .* got a nested tensor: pass list\(x\.unbind\(\)\)"):
            call(*nested)
    with pytest.raises(TypeError, match="query_flow: expected a dense tensor"):
        flow_infonce(*inputs()[:2], inputs()[2].to_sparse(), inputs()[3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_of_numpy(backend: str) -> None:
    options = dict(temperature=np.float32(0.25), bandwidth=np.int64(2))
    plain = flow_infonce(*inputs(), temperature=0.25, bandwidth=2.0, backend=backend)
    torch.testing.assert_close(flow_infonce(*inputs(), **options, backend=backend), plain, rtol=0, atol=0)
    module = FlowInfoNCELoss(**options, backend=backend, skip_tokens=np.int64(0), warn_share=np.float32(0.5))
    torch.testing.assert_close(module(*inputs()), plain)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [1e-40, 1e-9, torch.tensor(1e-40)])
def test_a_temperature_that_leaves_no_digit_of_a_logit(backend: str, temperature: float | Tensor) -> None:
    with pytest.raises(ValueError, match=r"temperature: expected at least 1\.2e-07, got 1e-"):
        flow_infonce(*inputs(), temperature=temperature, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_temperature_or_bandwidth_beyond_float32_is_its_largest_number(backend: str) -> None:
    loss = flow_infonce(*inputs(), temperature=1e39, bandwidth=1e39, backend=backend)
    torch.testing.assert_close(loss, torch.tensor(6.0).log())


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_dtypes_under_autocast(backend: str) -> None:
    query, key, *flows = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        wanted = flow_infonce(query, key, *flows, backend=backend)
        for dtypes in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)):
            leaves = [x.to(dtype).requires_grad_() for x, dtype in zip((query, key), dtypes, strict=True)]
            loss = flow_infonce(*leaves, *flows, backend=backend)
            torch.testing.assert_close(loss, wanted)
            assert tuple(x.dtype for x in torch.autograd.grad(loss, leaves)) == dtypes
        with pytest.raises(TypeError, match=r"key: expected dtype torch\.float64 like query"):
            flow_infonce(query.double(), key, *flows, backend=backend)
