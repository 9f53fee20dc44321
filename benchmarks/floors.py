"""The floor of a case: the least time that its arithmetic can take at rates measured in the same run.

With P = B N M pairs, D channels, embeddings of E bytes, gaussian weights:

    part      products (FLOP)    exponentials    bytes moved at least
    forward   2 P D              2 P             read q, k, flows
    backward  6 P D              2 P             read q, k, flows, write dq, dk (the logits again, dq, dk)
    both      6 P D              2 P             read q, k, flows, write dq, dk (gradients formed in the same sweep)

    floor = max(products / product rate, exponentials / exp rate, bytes / copy rate)

The maximum, not the sum: a perfect implementation overlaps them, so nothing correct can be below the floor, as far as
torch's own product, exp and copy reach this machine's rates. One-hot cases need one exponential a pair. The symmetric loss
shares its products and exponentials between both directions and has the same floor. Where one gradient alone is asked for,
2 P D are not needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.case import DTYPES, Case

# sides of the square product; half precision on a CPU may be emulated and slow
SIDES = {"cpu": 4096, "cuda": 8192}
CPU_HALF_SIDES = {"bfloat16": 2048, "float16": 512}  # many CPUs multiply float16 at 1 GFLOP/s: minutes for a large product


def work(case: Case, part: str) -> dict[str, float]:
    """{"flop", "exp", "bytes"} of one part of a case, by the model above."""
    rows = 2 * case.frames * case.pixels
    reads = rows * (case.dim * case.element_size + 2 * 4)
    writes = 0 if part == "forward" else case.gradient_bytes
    products = 2 if part == "forward" else 2 + 2 * case.gradients
    return {
        "flop": products * case.pairs * case.dim,
        "exp": (1 if case.one_hot else 2) * case.pairs,
        "bytes": reads + writes,
    }


def floor_seconds(case: Case, part: str, rates: dict[str, float]) -> tuple[float, str]:
    """(seconds, what bounds it: "products", "exp" or "bytes").

    Args:
        rates: as ``measure_rates`` gives them, FLOP/s per dtype under ``product_<dtype>``, ``exp`` per s, ``copy`` bytes/s.
    """
    needed = work(case, part)
    seconds = {
        "products": needed["flop"] / rates[f"product_{case.dtype}"],
        "exp": needed["exp"] / rates["exp"],
        "bytes": needed["bytes"] / rates["copy"],
    }
    bound = max(seconds, key=lambda name: seconds[name])
    return seconds[bound], bound


def best_seconds(run: Callable[[], object], device: str, rounds: int) -> float:
    """The fastest of some rounds, after one that warms up."""
    def once() -> float:
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(rounds))


def product_rate(dtype: str, device: str, size: int = 0, rounds: int = 3) -> float:
    """FLOP/s of one large square product [size, size] x [size, size]; size 0 = the usual one."""
    if not size:
        size = CPU_HALF_SIDES.get(dtype, SIDES[device]) if device == "cpu" else SIDES[device]
    a, b = (torch.randn(size, size, device=device).to(DTYPES[dtype]) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / best_seconds(lambda: torch.mm(a, b, out=out), device, rounds)


def exp_rate(device: str) -> float:
    """float32 exponentials/s of torch.exp, on a tensor that stays in the cache of a CPU (1 MB) or fills a GPU."""
    x = torch.randn(1 << 18 if device == "cpu" else 1 << 26, device=device)
    out = torch.empty_like(x)
    return x.numel() / best_seconds(lambda: torch.exp(x, out=out), device, 20)


def copy_rate(device: str) -> float:
    """Bytes/s moved (read + written) by a copy of 256 MB."""
    x = torch.zeros(1 << 26, device=device)
    out = torch.empty_like(x)
    return 2 * x.numel() * 4 / best_seconds(lambda: out.copy_(x), device, 5)


def measure_rates(device: str, dtypes: set[str]) -> dict[str, float]:
    """The rates of this machine now."""
    rates = {f"product_{dtype}": product_rate(dtype, device) for dtype in sorted(dtypes)}
    return {**rates, "exp": exp_rate(device), "copy": copy_rate(device)}
