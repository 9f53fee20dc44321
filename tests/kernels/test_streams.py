"""What only a GPU can show: other streams, and CUDA graphs that replay the loss and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laparoflow_kernels import FlowInfoNCELoss
from tests.numerics import unit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def inputs(device: str, seed: int) -> tuple[Tensor, ...]:
    """Maps [2, 16, 9, 11] in bfloat16 and flows [2, 2, 9, 11]."""
    generator = torch.Generator().manual_seed(seed)
    maps = [unit(2, 99, 16, seed=seed + i).transpose(1, 2).reshape(2, 16, 9, 11).bfloat16().to(device) for i in (0, 5)]
    return *maps, *(torch.randn(2, 2, 9, 11, generator=generator).to(device) for _ in range(2))


def loss_and_gradients(loss: FlowInfoNCELoss, first: Tensor, second: Tensor, *flows: Tensor) -> tuple[Tensor, ...]:
    value = loss(first, second, *flows)
    return (value, *torch.autograd.grad(value, (first, second)))


def on_a_gpu(device: str) -> None:
    if device != "cuda":
        pytest.skip("a test of backends on a GPU")


@pytest.mark.parametrize("symmetric", [False, True])
def test_another_stream_gives_the_same_bits(backend: str, device: str, symmetric: bool) -> None:
    on_a_gpu(device)
    loss = FlowInfoNCELoss(symmetric=symmetric, backend=backend)
    first, second, *flows = inputs(device, 1)
    first.requires_grad_(), second.requires_grad_()
    here = loss_and_gradients(loss, first, second, *flows)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        there = loss_and_gradients(loss, first, second, *flows)
    torch.cuda.current_stream().wait_stream(stream)
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_cuda_graph_replays_the_loss(backend: str, device: str, symmetric: bool) -> None:
    """Captured once, replayed on other numbers in the same memory."""
    on_a_gpu(device)
    loss = FlowInfoNCELoss(symmetric=symmetric, backend=backend, warn_share=None)
    held = inputs(device, 1)
    held[0].requires_grad_(), held[1].requires_grad_()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # what is compiled or chosen at a first call is not captured
            loss_and_gradients(loss, *held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loss_and_gradients(loss, *held)
    for seed in (1, 2):
        fresh = inputs(device, seed)
        with torch.no_grad():
            for to, x in zip(held, fresh, strict=True):
                to.copy_(x)
        graph.replay()
        fresh[0].requires_grad_(), fresh[1].requires_grad_()
        for a, b in zip(captured, loss_and_gradients(loss, *fresh), strict=True):
            assert torch.equal(a, b)
