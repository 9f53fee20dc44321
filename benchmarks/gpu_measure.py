"""What ``make gpu-check`` measures on a GPU: one line of JSON for the forward and for the backward of each case.

    python -m benchmarks.gpu_measure speed|tune|limits BACKEND ...

Every case is compared with float64 (gpu_truth.py). Exit status 1 where one is wrong, after all rows; stderr names it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks import gpu_truth
from laparoflow_kernels.backends import load_backend
from laparoflow_kernels.problem import PackedFrames, PairProblem

SIZES = (64, 128, 256)
PIXELS = 100_000
# goals of the CUDA kernels on an H200 at N = M = 100,000, bf16, in seconds
GOALS = {"forward": {64: 4.0e-3, 128: 4.5e-3, 256: 7.5e-3}, "backward": {64: 7.8e-3, 128: 13e-3, 256: 26e-3}}
ERRORS = "relative_error_of_lse_positive_dq_dk"
CASE = ("N", "D", "positives", "symmetric", "deterministic")
Row = dict[str, Any]


def make_problem(pixels: int, dim: int, device: str = "cuda", **options: Any) -> PairProblem:
    """One frame of random unit embeddings (bf16) and flows; query and key need gradients."""
    generator = torch.Generator(device).manual_seed(0)

    def side() -> tuple[torch.Tensor, PackedFrames]:
        rows = torch.nn.functional.normalize(torch.randn(pixels, dim, device=device, generator=generator), dim=1)
        flow = 3 * torch.randn(pixels, 2, device=device, generator=generator)
        offsets = torch.tensor([0, pixels], device=device)
        return rows.bfloat16().requires_grad_(), PackedFrames(flow, None, offsets, (pixels,), pixels)

    (query, query_frames), (key, key_frames) = side(), side()
    choices: dict[str, Any] = dict(
        flow_kernel="gaussian", positives="outside", negatives="all", scope="frame", symmetric=False, bounded=True
    )
    return PairProblem(
        query, key, query_frames, key_frames, torch.tensor(0.1, device=device), torch.ones(1, device=device),
        **{**choices, **options},
    )  # fmt: skip


def timed(run: Callable[[], Any], repeats: int) -> list[float]:
    """Sorted seconds of single runs by device events, after two runs that warm up."""
    run(), run()
    seconds = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) * 1e-3)
    return sorted(seconds)


def measure(backend: str, problem: PairProblem, repeats: int) -> Iterator[Row]:
    """Forward and backward of one backend: median and extremes in seconds, extra memory in bytes, agreement."""
    module = load_backend(backend)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rows, _columns = module.statistics(problem)
    wrt = (problem.query, problem.key)
    upstream = torch.zeros_like(rows)
    upstream[0], upstream[2] = 1 / rows.shape[1], -1 / rows.shape[1]
    gradients = torch.autograd.grad(rows, wrt, upstream, retain_graph=True)
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    errors = gpu_truth.relative_errors(problem, rows.detach(), *gradients)
    del gradients
    common = {
        "backend": backend, "N": problem.query.shape[0], "D": problem.query.shape[1], "dtype": "bfloat16",
        "flow_kernel": problem.flow_kernel, "positives": problem.positives, "symmetric": problem.symmetric,
        "deterministic": torch.are_deterministic_algorithms_enabled(), "extra_bytes": extra, ERRORS: errors,
    }  # fmt: skip
    for part, run in (
        ("forward", lambda: module.statistics(problem)),
        ("backward", lambda: torch.autograd.grad(rows, wrt, upstream, retain_graph=True)),
    ):
        seconds = timed(run, repeats)
        plain = common["N"] == PIXELS and not problem.symmetric and problem.positives == "outside"
        goal = GOALS[part].get(common["D"]) if plain else None
        yield {
            **common, "part": part, "seconds": seconds[len(seconds) // 2], "fastest": seconds[0], "slowest": seconds[-1],
            "goal_seconds": goal,
        }  # fmt: skip


def speed(backends: list[str]) -> Iterator[Row]:
    """N = M = 100,000 at D = 64, 128, 256: forward and backward."""
    for dim in SIZES:
        problem = make_problem(PIXELS, dim)
        for backend in backends:
            yield from measure(backend, problem, repeats=10)


def tune(backends: list[str]) -> Iterator[Row]:
    """Fill the tile cache of the Triton backend and list what it holds."""
    from laparoflow_kernels.backends.triton import tile_cache

    for dim in SIZES:
        for backend in backends:
            yield from measure(backend, make_problem(PIXELS, dim), repeats=3)
    for key, entries in tile_cache.entries().items():
        yield {"tiles": key, "entries": entries}


def limits(backends: list[str]) -> Iterator[Row]:
    """The training size (8 frames of 56 x 56), other forms, the deterministic mode, a million pixels."""
    for backend in backends:
        yield from measure(backend, make_problem(8 * 3136, 64), repeats=10)
        for options in (dict(symmetric=True), dict(positives="inside"), dict(positives="inside", symmetric=True)):
            yield from measure(backend, make_problem(PIXELS, 64, **options), repeats=5)
        torch.use_deterministic_algorithms(True)
        for dim in SIZES:
            yield from measure(backend, make_problem(PIXELS, dim), repeats=5)
        torch.use_deterministic_algorithms(False)
        yield from measure(backend, make_problem(1_000_000, 64), repeats=1)


MEASUREMENTS: dict[str, Callable[[list[str]], Iterator[Row]]] = {"speed": speed, "tune": tune, "limits": limits}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=sorted(MEASUREMENTS))
    parser.add_argument("backends", nargs="+", choices=("native", "triton"))
    options = parser.parse_args(arguments)
    found = []
    for row in MEASUREMENTS[options.measurement](options.backends):
        print(json.dumps(row), flush=True)
        reason = gpu_truth.wrong(row[ERRORS]) if ERRORS in row else None
        if reason is not None:
            case = " ".join(f"{name}={row[name]}" for name in CASE)
            found.append(f"{row['backend']} {case}: {reason}")
    for line in dict.fromkeys(found):
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
