"""The number of frames is left open: one graph of torch.compile, one exported program, one compiled library serves all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from laparoflow_kernels import FlowInfoNCELoss, flow_weighted_sum

CASES: list[tuple[str, dict]] = [
    ("reference", dict(symmetric=True)),
    ("native", dict(bandwidth="auto")),
    ("native", dict(scope="batch", symmetric=True)),
]
FEW = [pytest.param(*CASES[0], marks=pytest.mark.slow), CASES[1], pytest.param(*CASES[2], marks=pytest.mark.slow)]


class Step(nn.Module):
    """Loss of every query, and the weighted sum: both public operators, over B frames of N pixels."""

    def __init__(self, backend: str, options: dict) -> None:
        super().__init__()
        self.criterion = FlowInfoNCELoss(0.2, backend=backend, warn_share=None, **options)
        self.backend = backend

    def forward(self, query: Tensor, key: Tensor, flow: Tensor, key_flow: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.criterion(query, key, flow, key_flow, mask)
        return loss, flow_weighted_sum(flow, key_flow, key, backend=self.backend)


def inputs(frames: int, pixels: int = 13, requires_grad: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(frames)
    draw = lambda *shape: torch.randn(frames, *shape, generator=generator)
    embeddings = [draw(n, 8).requires_grad_(requires_grad) for n in (pixels, pixels + 4)]
    return [*embeddings, draw(pixels, 2), draw(pixels + 4, 2), draw(pixels) > -1]


@pytest.mark.parametrize(("backend", "options"), FEW)
@torch._dynamo.config.patch(error_on_recompile=True)
def test_one_graph_for_every_number_of_frames(backend: str, options: dict) -> None:
    torch._dynamo.reset()
    step = Step(backend, options)
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for frames in range(3, 13):  # not 2 first: torch takes sizes that are equal in the first call for one, here B and F
        given = inputs(frames, 13 + frames, requires_grad=True)
        results = [f(*given) for f in (compiled, step)]
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
        gradients = [torch.autograd.grad(loss, given[:2]) for loss, _ in results]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("backend", "options"), CASES)
def test_an_exported_program_takes_any_number_of_frames(backend: str, options: dict) -> None:
    step = Step(backend, options)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(step, tuple(inputs(3)), dynamic_shapes=[{0: batch}] * 5).module()
    for frames in (1, 2, 9):
        torch.testing.assert_close(program(*inputs(frames)), step(*inputs(frames)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.compiler
def test_a_library_compiled_ahead_of_time_takes_any_number_of_frames(tmp_path: Path) -> None:
    step = Step("native", dict(bandwidth="auto", symmetric=True))
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(step, tuple(inputs(3)), dynamic_shapes=[{0: batch}] * 5)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "loss.pt2"))
    library = torch._inductor.aoti_load_package(path)
    for frames in (1, 2, 9):
        torch.testing.assert_close(tuple(library(*inputs(frames))), step(*inputs(frames)), rtol=1e-5, atol=1e-6)
