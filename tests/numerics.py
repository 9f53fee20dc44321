"""The error rule of every backend, held once.

Truth is the reference backend in float64. A fused result is right when its largest and its mean error against that truth are
at most twice those of the reference with products of the precision that the kernels' sums have, plus a few roundings of the
quantity's own size:

    error(fused) <= 2 error(reference) + ROUNDINGS * eps(dtype of the result) * size

For float32 inputs that reference runs in float32. For 16-bit inputs it runs in float32 on the rounded embeddings, and its
gradients are rounded to the inputs' dtype: the reference in bfloat16 itself rounds the logits, and twice its error would
allow a loss that is a thousand times less exact than the kernels'. Embeddings given to the truth are the rounded ones, so
that every backend answers the same question.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from laparoflow_kernels import flow_infonce

ROUNDINGS = 4
HALF_ROUNDINGS = 1  # of 16-bit gradients: eps is two roundings, that of dS before the second product and that of the result
SCALAR_ROUNDINGS = 16
FLOAT64_BOUND = 1e-10
DRAWS = int(os.environ.get("LAPAROFLOW_TEST_DRAWS", "6"))  # fewer where a draw takes seconds (Triton's interpreter)
NAMES = ("loss", "dquery", "dkey", "dtemperature")
GRADIENTS = ("dquery", "dkey")  # these come in the dtype of the inputs
HALF = (torch.bfloat16, torch.float16)
MEASURES = {"max": torch.max, "mean": torch.mean, "rms": lambda x: x.square().mean().sqrt()}


@dataclass
class Case:
    """Inputs and options of one comparison; ``name`` goes into test ids."""

    name: str
    query: Tensor
    key: Tensor
    query_flow: Tensor
    key_flow: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def with_options(self, **options: Any) -> Case:
        return replace(self, options={**self.options, **options})


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def make_case(
    n: int,
    m: int,
    d: int,
    *,
    frames: int = 2,
    channels: int = 2,
    motion: float = 1.0,
    masks: bool = False,
    seed: int = 0,
    **options: Any,
) -> Case:
    """Random unit embeddings and flows; ``masks`` drops a fifth of the pixels and puts NaN there."""
    generator = torch.Generator().manual_seed(seed + 1)
    query, key = unit(frames, n, d, seed=seed), unit(frames, m, d, seed=seed + 7)
    flows = [motion * torch.randn(frames, size, channels, dtype=torch.float64, generator=generator) for size in (n, m)]
    if masks:
        for side, x, flow in (("query_mask", query, flows[0]), ("key_mask", key, flows[1])):
            keep = torch.rand(x.shape[:2], generator=generator) > 0.2
            x[~keep] = torch.nan
            flow[~keep] = torch.nan
            options[side] = keep
    return Case(f"n{n}-m{m}-d{d}", query, key, flows[0], flows[1], options)


def evaluate(
    case: Case, dtype: torch.dtype, backend: str, device: str = "cpu", rounded_from: torch.dtype | None = None,
    upstream: float = 1.0,
) -> dict[str, Tensor]:
    """Loss, dquery, dkey and dtemperature in float64, computed in ``dtype`` by ``backend``.

    ``rounded_from``: round the embeddings to that dtype first (the truth of a half-precision case). ``upstream``: dL/dloss.
    """
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    flow_dtype = torch.float32 if rounded_from not in (None, torch.float64) else accumulator
    options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in case.options.items()}

    def embedding(x: Tensor) -> Tensor:
        return x.to(rounded_from or dtype).to(dtype).to(device).requires_grad_()

    query, key = embedding(case.query), embedding(case.key)
    query_flow, key_flow = (f.to(flow_dtype).to(accumulator).to(device) for f in (case.query_flow, case.key_flow))
    temperature = (
        torch.tensor(options.pop("temperature", 0.1), dtype=torch.float64)
        .to(flow_dtype)
        .to(accumulator)
        .to(device)
        .requires_grad_()
    )
    loss = flow_infonce(query, key, query_flow, key_flow, temperature=temperature, backend=backend, **options)
    total = loss
    if options.get("reduction") == "none":
        parts = loss if options.get("symmetric") else (loss,)
        total = sum((p * torch.linspace(0.5, 1.5, p.numel(), device=device, dtype=p.dtype).view_as(p)).sum() for p in parts)
    dquery, dkey, dtemperature = torch.autograd.grad(upstream * total, (query, key, temperature))
    return {
        name: x.detach().double().cpu()
        for name, x in (("loss", total), ("dquery", dquery), ("dkey", dkey), ("dtemperature", dtemperature))
    }


def by_reference(case: Case, dtype: torch.dtype, device: str = "cpu", upstream: float = 1.0) -> dict[str, Tensor]:
    """What ``evaluate`` gives of the reference that the rule compares with."""
    if dtype not in HALF:
        return evaluate(case, dtype, "reference", device, upstream=upstream)
    found = evaluate(case, torch.float32, "reference", device, rounded_from=dtype, upstream=upstream)
    return {name: x.to(dtype).double() if name in GRADIENTS else x for name, x in found.items()}


def violations(
    name: str, truth: list[Tensor], reference: list[Tensor], fused: list[Tensor], dtype: torch.dtype, of_terms: float = 0.0
) -> list[str]:
    """Where a result breaks the rule; empty when it is right.

    Args:
        name: what is compared. "dquery" and "dkey" come in the dtype of the inputs, everything else in float32 or wider;
            "loss" and "dtemperature" are scalars.
        truth: the value of each draw by the reference in float64.
        reference: the same as ``by_reference`` has it.
        fused: the same by the backend under test.
        dtype: of the inputs; float64 results, for which the reference is no other than the truth, may be FLOAT64_BOUND off.
        of_terms: size of the terms, where they cancel to nothing and the quantity has no size of its own.
    """
    right = torch.cat([x.double().flatten() for x in truth])
    if right.numel() == 0:
        return []
    error, reference_error = (torch.cat([x.double().flatten() for x in values]) - right for values in (fused, reference))
    scalar = name in ("loss", "dtemperature")
    result = dtype if dtype not in HALF or name in GRADIENTS else torch.float32
    roundings = HALF_ROUNDINGS if result in HALF else SCALAR_ROUNDINGS if scalar else ROUNDINGS
    floor = roundings * torch.finfo(result).eps
    if dtype == torch.float64:
        floor = FLOAT64_BOUND
    problems = []
    for measure in ("rms",) if scalar else ("max", "mean"):
        e, r, s = (MEASURES[measure](x.abs()) for x in (error, reference_error, right))
        if not e <= 2 * r + floor * max(s, of_terms):
            problems.append(f"{name} {measure}: error {e:.3e}, reference {r:.3e}, size {s:.3e}")
    return problems


def redrawn(case: Case, draw: int) -> Case:
    """The case in other coordinates: all embeddings rotated, and longer queries at a higher temperature. The problem stays,
    its rounding errors change."""
    if draw == 0:
        return case
    d = case.query.shape[-1]
    generator = torch.Generator().manual_seed(draw)
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
    longer = 1 + 0.07 * draw
    options = {**case.options, "temperature": case.options.get("temperature", 0.1) * longer}
    return replace(case, query=longer * case.query @ rotation, key=case.key @ rotation, options=options)


def sizes_of_cancelling_terms(case: Case) -> dict[str, float]:
    """Of lse and positive, about a logit; of their gradients, a unit vector over temperature and pixels of the mean."""
    sharpness, pixels = 1 / case.options.get("temperature", 0.1), case.query.shape[0] * case.query.shape[1]
    return {
        "loss": sharpness,
        "dquery": sharpness / pixels,
        "dkey": sharpness / pixels,
        "dtemperature": sharpness**2,
    }


def assert_within_rule(
    case: Case, dtype: torch.dtype, backend: str, device: str = "cpu", cancels: bool = False, upstream: float = 1.0
) -> None:
    """Apply the rule to loss, dquery, dkey and dtemperature, over DRAWS rotations of the case.

    ``cancels``: all of these are zero, as differences of equal terms. native on the CPU finds that exactly, as the reference
    does; whoever rounds on the way is held to the size of the terms.

    A single scalar says little: of two equally good results one is twice as near as the other a third of the time. Hence
    several draws, and for scalars, which are sums over all pixels, SCALAR_ROUNDINGS and the root mean square over the draws.
    """
    truth, reference, fused = ({name: [] for name in NAMES} for _ in range(3))
    for draw in range(DRAWS):
        drawn = redrawn(case, draw)
        for results, outcome in (
            (truth, evaluate(drawn, torch.float64, "reference", rounded_from=dtype, upstream=upstream)),
            (reference, by_reference(drawn, dtype, device, upstream)),
            (fused, evaluate(drawn, dtype, backend, device, upstream=upstream)),
        ):
            for name, value in outcome.items():
                results[name].append(value)
    problems = []
    terms = sizes_of_cancelling_terms(case) if cancels and (backend, device) != ("native", "cpu") else {}
    for name in NAMES:
        assert all(torch.isfinite(right).all() for right in truth[name]), f"the truth of {name} is not finite"
        problems += violations(name, truth[name], reference[name], fused[name], dtype, terms.get(name, 0.0))
    assert not problems, f"{case.name} {case.options} {dtype} {backend}: " + "; ".join(problems)
