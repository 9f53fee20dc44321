"""Random problems against float64 by the rule of tests/numerics.py, through the function and through the module.

Drawn: sizes, widths, flow channels, dtypes, options, masks with NaN behind them, excluded pairs, weights, strides, lists and
the scale of the upstream gradient. A quick part is run always; ``-m slow`` runs some minutes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from laparoflow_kernels import FlowInfoNCELoss, flow_infonce
from laparoflow_kernels.problem import FLOW_KERNELS, NEGATIVES, POSITIVES, REDUCTIONS, SCOPES
from tests.numerics import GRADIENTS, HALF, unit, violations

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_first", "stepped")
DRAWS = 3


@dataclass
class Fuzz:
    """One random problem; its tensors follow from ``seed`` and a draw."""

    queries: list[int]  # pixels of each frame
    keys: list[int]
    width: int
    channels: int
    dtype: torch.dtype
    options: dict[str, Any]
    masked: bool
    weighted: bool
    excluded: str  # "", "self" or "groups"
    as_list: bool
    layout: str
    module: bool
    upstream: float
    seed: int

    def draw(self, number: int) -> dict[str, list[Tensor]]:
        """Tensors of each frame in float64; embeddings and flows are rounded to what the problem's dtype holds."""
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        parts: dict[str, list[Tensor]] = {}
        flow_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        for side, sizes in (("query", self.queries), ("key", self.keys)):
            seeds = torch.randint(0, 10**6, (len(sizes),), generator=generator).tolist()
            parts[side] = [unit(n, self.width, seed=s).to(self.dtype).double() for n, s in zip(sizes, seeds, strict=True)]
            flows = [torch.randn(n, self.channels, generator=generator, dtype=torch.float64) for n in sizes]
            parts[f"{side}_flow"] = [x.to(flow_dtype).double() for x in flows]
            if self.masked:
                keep = parts[f"{side}_mask"] = [torch.rand(n, generator=generator) > 0.25 for n in sizes]
                for b, mask in enumerate(keep):
                    parts[side][b][~mask], parts[f"{side}_flow"][b][~mask] = torch.nan, torch.nan
            if self.weighted and (side == "query" or self.options["symmetric"]):
                weights = [torch.rand(n, generator=generator, dtype=torch.float64) for n in sizes]
                parts[f"{side}_weight"] = [x.to(flow_dtype).double() for x in weights]
            if self.excluded == "groups":
                parts[f"{side}_group"] = [torch.randint(0, 6, (n,), generator=generator) for n in sizes]
        return parts

    def evaluate(self, parts: dict[str, list[Tensor]], dtype: torch.dtype, backend: str, device: str) -> dict[str, Tensor]:
        """The loss and its gradients in float64, computed in ``dtype``."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        leaves: dict[str, list[Tensor]] = {}
        given: dict[str, Any] = {}
        for name, frames in parts.items():
            kind = dtype if name in ("query", "key") else wide
            moved = [x.to(device, kind if x.is_floating_point() else x.dtype) for x in frames]
            if name in ("query", "key") or name.endswith("weight"):
                leaves[name] = moved = [x.requires_grad_() for x in moved]
            laid = [strided(x, self.layout) if x.ndim == 2 else x for x in moved]
            given[name] = laid if self.as_list else strided(torch.stack(moved), self.layout)
        temperature = torch.tensor(0.2, dtype=wide, device=device, requires_grad=True)
        bandwidth = 1.3
        options = {**self.options, "exclude_self": self.excluded == "self", "backend": backend}
        if self.module:
            loss = FlowInfoNCELoss(torch.nn.Parameter(temperature), bandwidth, warn_share=None, **options)
            temperature = loss.temperature  # type: ignore[assignment]
            result = loss(**given)
        else:
            result = flow_infonce(**given, temperature=temperature, bandwidth=bandwidth, **options)
        flat: list[Tensor] = []
        for direction in result if isinstance(result, tuple) else (result,):
            flat += [direction] if isinstance(direction, Tensor) else list(direction)
        ramps = [torch.linspace(0.5, 1.5, x.numel(), device=device).to(x).view_as(x) for x in flat]
        total = torch.stack([(x * ramp).sum() for x, ramp in zip(flat, ramps, strict=True)]).sum()
        inputs = [x for frames in leaves.values() for x in frames]
        grads = torch.autograd.grad(total * self.upstream, [*inputs, temperature])
        found = {"loss": total, "dtemperature": grads[-1]}
        at = 0
        for name, frames in leaves.items():
            found[f"d{name}"] = torch.cat([x.flatten() for x in grads[at : at + len(frames)]])
            at += len(frames)
        return {name: x.detach().double().cpu() for name, x in found.items()}


def strided(x: Tensor, layout: str) -> Tensor:
    """The same values in other places of memory."""
    if x.ndim < 2 or layout == "contiguous":
        return x
    if layout == "channels_first":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return torch.stack([x, x], -1)[..., 0]


@st.composite
def problems(draw: Any, dtypes: tuple[torch.dtype, ...], largest: int) -> Fuzz:
    choose = lambda values: draw(st.sampled_from(values))
    as_list = draw(st.booleans())
    frames = draw(st.integers(1, 3))
    size = st.integers(16, largest)  # fewer pixels leave differences of two terms, whose float32 error is chance
    sides = [[draw(size) for _ in range(frames)] if as_list else [draw(size)] * frames for _ in range(2)]
    excluded = choose(("", "", "self", "groups"))
    if excluded == "self":
        sides[1] = sides[0]
    options = dict(
        flow_kernel=choose(FLOW_KERNELS), positives=choose(POSITIVES), negatives=choose(NEGATIVES), scope=choose(SCOPES),
        symmetric=draw(st.booleans()), reduction=choose(REDUCTIONS),
    )  # fmt: skip
    dtype = choose(dtypes)
    return Fuzz(
        *sides, draw(st.integers(5, 70)), draw(st.integers(1, 8)), dtype, options, masked=draw(st.booleans()),
        weighted=draw(st.booleans()), excluded=excluded, as_list=as_list, layout=choose(LAYOUTS),
        module=dtype not in HALF and draw(st.booleans()),  # the module rounds what it has normalised, the truth would not
        upstream=choose((1e-6, 1.0, 1024.0)), seed=draw(st.integers(0, 10**6)),
    )  # fmt: skip


def check(problem: Fuzz, backend: str, device: str) -> None:
    """The rule, for the loss and every gradient, over DRAWS draws of the tensors; what is under a mask gets 0."""
    results: list[dict[str, list[Tensor]]] = [{}, {}, {}]
    weight_sums: list[float] = []
    for number in range(DRAWS):
        parts = problem.draw(number)
        for name, weights in parts.items():
            if name.endswith("weight"):
                masks = parts.get(name.replace("weight", "mask"), [torch.ones_like(w, dtype=torch.bool) for w in weights])
                weight_sums.append(sum(float(w[keep].sum()) for w, keep in zip(weights, masks, strict=True)))
        exact = torch.float32 if problem.dtype in HALF else problem.dtype  # as in tests/numerics.py
        ways = (torch.float64, "reference", "cpu"), (exact, "reference", device), (problem.dtype, backend, device)
        for found, way in zip(results, ways, strict=True):
            for key, value in problem.evaluate(parts, *way).items():
                rounded = way[0] != torch.float64 and key in GRADIENTS
                found.setdefault(key, []).append(value.to(problem.dtype).double() if rounded else value)
    wrong = []
    for name, truth in results[0].items():
        assert all(torch.isfinite(x).all() for x in truth), f"the truth of {name} is not finite"
        same, fused = (found[name] for found in results[1:])
        # a weight's gradient is the difference of its loss from the mean, which is nothing where a single query counts
        cancels = name.endswith("weight") and problem.options["reduction"] == "mean"
        terms = problem.upstream * max(float(x.abs()) for x in results[0]["loss"]) / min(weight_sums) if cancels else 0.0
        wrong += violations(name, truth, same, fused, problem.dtype, terms)
        gradients = zip(truth, fused, strict=True)
        if name in ("dquery", "dkey"):
            wrong += [f"{name} where the truth has none" for a, b in gradients if (b[a == 0] != 0).any()]
    assert not wrong, "; ".join(wrong)


def rules(examples: int) -> Any:
    return settings(max_examples=examples, deadline=None, derandomize=True, print_blob=True,
                    suppress_health_check=list(HealthCheck))  # fmt: skip


def dtypes_of(backend: str, device: str) -> tuple[torch.dtype, ...]:
    return DTYPES if (backend, device) == ("native", "cpu") else tuple(x for x in DTYPES if x != torch.float64)


@pytest.mark.filterwarnings("ignore:flow_infonce")
@pytest.mark.parametrize("examples", [30, pytest.param(600, marks=pytest.mark.slow)])
def test_random_problems(examples: int, backend: str, device: str) -> None:
    pixels = 90 if backend == "native" else 40

    @rules(examples if backend == "native" else examples // 10)
    @given(problem=problems(dtypes_of(backend, device), pixels))
    def run(problem: Fuzz) -> None:
        check(problem, backend, device)

    run()
