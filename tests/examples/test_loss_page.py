"""The page "use the loss in your code": its blocks run, its recipes are exact, its messages exist."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from laparoflow_kernels import FlowInfoNCELoss

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "LOSS.md").read_text()


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page's Python blocks define, run from top to bottom."""
    torch._dynamo.reset()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/LOSS.md", "exec"), names)
    return names


def test_the_statistics_are_what_the_page_calls_them(page: dict[str, Any]) -> None:
    assert 0 < page["share_valid"] <= 1
    assert 1 <= page["positives"] <= 14 * 14
    assert page["excess"] > 0
    assert page["per_pixel"].shape == (4, 14, 14)


def test_every_message_of_the_page_exists() -> None:
    table = PAGE[PAGE.index("## Messages") : PAGE.index("## More frames")]
    messages = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert len(messages) > 5
    text = "".join(path.read_text() for path in (ROOT / "laparoflow_kernels").rglob("*.py"))
    text = re.sub(r'"\s*\n\s*f?"', "", text)  # literals that go on in the next line
    for message in messages:
        assert message in text, message


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.Tanh(), torch.nn.Conv2d(8, 6, 1)]
    return torch.nn.Sequential(*layers).double()


class PatchLinear(torch.nn.Module):
    """[B, C, H, W] to [B, D, H / 4, W / 4] without a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.unshuffle, self.linear = torch.nn.PixelUnshuffle(4), torch.nn.Linear(48, 6).double()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.linear(self.unshuffle(image).movedim(1, -1)).movedim(-1, 1)


def parts() -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(2)
    shapes = ((3, 24, 24), (3, 24, 24), (2, 6, 6), (2, 6, 6))
    made = [[torch.randn(b, *s, generator=generator, dtype=torch.float64) * 2 for s in shapes] for b in (2, 1, 3)]
    made[1][2][:, :, :3] += 1000  # queries without a positive: the parts differ in how many count
    return [tuple(part) for part in made]


def joint_gradients(scope: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model = network()
    image_1, image_2, flow_1, flow_2 = (torch.cat(tensors) for tensors in zip(*parts(), strict=True))
    loss = FlowInfoNCELoss(scope=scope)(model(image_1), model(image_2), flow_1, flow_2)
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters()]


def test_accumulated_gradients_equal_the_joint_batch(page: dict[str, Any]) -> None:
    model = network()
    page["accumulated_step"](model, parts())
    _, expected = joint_gradients("frame")
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)


def test_two_pass_gradients_equal_the_joint_batch(page: dict[str, Any]) -> None:
    model = network()
    loss = page["two_pass_step"](model, parts())
    expected_loss, expected = joint_gradients("batch")
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)


@pytest.mark.parametrize("symmetric", [False, True])
def test_checkpointing_around_the_loss_changes_nothing(symmetric: bool) -> None:
    q, k = (torch.randn(2, 8, 5, 6, requires_grad=True) for _ in range(2))
    f, g = (torch.randn(2, 2, 5, 6) for _ in range(2))
    criterion = FlowInfoNCELoss(symmetric=symmetric)
    plain = torch.autograd.grad(criterion(q, k, f, g), (q, k))
    torch.testing.assert_close(torch.autograd.grad(checkpoint(criterion, q, k, f, g, use_reentrant=False), (q, k)), plain)
    checkpoint(criterion, q, k, f, g, use_reentrant=True).backward()
    torch.testing.assert_close((q.grad, k.grad), plain)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@torch._dynamo.config.patch(error_on_recompile=True)
def test_compiled_step_has_no_graph_break_and_does_not_recompile_over_five_sizes(backend: str) -> None:
    """inductor, the default of torch.compile, writes C++ for the CPU: most of this test's time is the compiler's. With
    inductor of torch 2.14 a convolution recompiles for every size, without any loss; so the network has none there."""
    if backend == "inductor" and shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("inductor needs a C++ compiler on the CPU")
    torch._dynamo.reset()
    model = PatchLinear() if backend == "inductor" else network()
    criterion = FlowInfoNCELoss(bandwidth="auto", positives="inside")

    def step(image_1: torch.Tensor, image_2: torch.Tensor, flow_1: torch.Tensor, flow_2: torch.Tensor) -> torch.Tensor:
        return criterion(model(image_1), model(image_2), flow_1, flow_2)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=backend)
    for height, width in ((6, 5), (7, 9), (8, 11), (10, 12), (13, 14)):
        images = [torch.randn(2, 3, 4 * height, 4 * width, dtype=torch.float64) for _ in range(2)]
        flows = [torch.randn(2, 2, height, width, dtype=torch.float64) for _ in range(2)]
        results = []
        for function in (compiled, step):
            model.zero_grad()
            loss = function(*images, *flows)
            loss.backward()
            results.append([loss.detach(), *(p.grad for p in model.parameters())])
        torch.testing.assert_close(*results)


@pytest.mark.parametrize(("dtype", "scaled"), [(torch.bfloat16, False), (torch.float16, True)])
def test_mixed_precision_trains_and_the_scaler_skips_overflow(dtype: torch.dtype, scaled: bool) -> None:
    model = network().float()
    image_1, image_2, flow_1, flow_2 = (x.float() for x in parts()[0])
    criterion = FlowInfoNCELoss(temperature=0.2)
    exact = torch.autograd.grad(criterion(model(image_1), model(image_2), flow_1, flow_2), list(model.parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1024.0)
    losses = []
    for turn in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            loss = criterion(model(image_1), model(image_2), flow_1, flow_2)
        assert loss.dtype == torch.float32
        losses.append(loss.item())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if turn == 0:
            for parameter, expected in zip(model.parameters(), exact, strict=True):
                off = (parameter.grad - expected).norm() / expected.norm()
                assert off < 0.05, off
        scaler.step(optimizer)
        scaler.update()
    assert losses[-1] < losses[0]
    if scaled:
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            loss = criterion(model(image_1), model(image_2), flow_1, flow_2)
        scaler.scale(loss * torch.inf).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 512
        torch.testing.assert_close([p.detach() for p in model.parameters()], before)
