"""The calls that ``make gpu-check`` runs under compute-sanitizer: every kernel of the native backend, small.

    compute-sanitizer --tool memcheck python -m benchmarks.gpu_sanitized [--device cuda|cpu]

Two frames of 70 and 33 queries against 130 and 65 keys, masked: tiles are ragged on both sides. Forward and backward in
each dtype, at a depth of one and of several blocks of channels, positives outside and inside, one direction and both, with
sums in any order and in a fixed one. Data is drawn on the CPU and results are compared there with the reference backend in
float64, so that the sanitizer sees little but our kernels. Exit status 1 where a result is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from laparoflow_kernels import flow_infonce

QUERIES, KEYS = (70, 33), (130, 65)
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3}  # largest |got - reference| / |reference|


@dataclass(frozen=True)
class Call:
    dtype: str
    dim: int
    positives: str
    symmetric: bool
    deterministic: bool


def calls() -> Iterator[Call]:
    """All of them; what most users run comes first."""
    choices = ((False, True), (64, 200), ("outside", "inside"), (False, True), ("bfloat16", "float16", "float32"))
    for deterministic, dim, positives, symmetric, dtype in itertools.product(*choices):
        yield Call(dtype, dim, positives, symmetric, deterministic)


def draw(call: Call) -> dict[str, list[Tensor]]:
    """Arguments of the loss on the CPU: unit embeddings [N_b, D], flows [N_b, 2] and masks [N_b] of each frame."""
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, call.dtype)
    given: dict[str, list[Tensor]] = {}
    for side, sizes in (("query", QUERIES), ("key", KEYS)):
        rows = [torch.nn.functional.normalize(torch.randn(n, call.dim, generator=generator), dim=1) for n in sizes]
        given[side] = [x.to(dtype) for x in rows]
        given[f"{side}_flow"] = [torch.randn(n, 2, generator=generator) for n in sizes]
        given[f"{side}_mask"] = [torch.rand(n, generator=generator) > 0.2 for n in sizes]
    return given


def loss_and_gradients(call: Call, given: dict[str, list[Tensor]], backend: str) -> list[Tensor]:
    """The loss, then the gradients of both frames' queries and of both frames' keys, float64 on the CPU."""
    leaves = [x.detach().requires_grad_() for x in (*given["query"], *given["key"])]
    loss = flow_infonce(
        leaves[: len(QUERIES)], leaves[len(QUERIES) :], given["query_flow"], given["key_flow"], normalized=True,
        query_mask=given["query_mask"], key_mask=given["key_mask"], positives=call.positives, symmetric=call.symmetric,
        backend=backend,
    )  # fmt: skip
    assert isinstance(loss, Tensor)
    return [x.detach().cpu().double() for x in (loss, *torch.autograd.grad(loss, leaves))]


def check(call: Call, device: str) -> str | None:
    """What is wrong with a call of the native backend, or None."""
    given = draw(call)
    moved = {name: [x.to(device) for x in tensors] for name, tensors in given.items()}
    torch.use_deterministic_algorithms(call.deterministic, warn_only=True)
    try:
        got = loss_and_gradients(call, moved, "native")
    finally:
        torch.use_deterministic_algorithms(False)
    exact = {name: [x.double() if x.is_floating_point() else x for x in tensors] for name, tensors in given.items()}
    truth = loss_and_gradients(call, exact, "reference")
    error = max(float((a - b).abs().max() / b.abs().max()) if a.isfinite().all() else torch.inf
                for a, b in zip(got, truth, strict=True))  # fmt: skip
    return None if error <= TOLERANCES[call.dtype] else f"off by {error:.2g} (tolerated {TOLERANCES[call.dtype]:.0e})"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    failed = False
    for call in calls():
        started = time.monotonic()
        reason = check(call, options.device)
        row = {**asdict(call), "seconds": round(time.monotonic() - started, 3)}
        print(json.dumps(row if reason is None else {**row, "wrong": reason}), flush=True)
        failed |= reason is not None
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
