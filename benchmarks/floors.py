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

from collections.abc import Callable

import torch

from benchmarks.case import DTYPES, Case
from benchmarks.machine import timed

# sides of the square product; half precision on a CPU may be emulated and slow, at 1 GFLOP/s with float16 on many
SIDES = {"cuda": 8192, "cpu": 4096, "cpu bfloat16": 2048, "cpu float16": 512}


def work(case: Case, part: str) -> dict[str, float]:
    """{"products" (FLOP), "exp", "bytes"} of one part of a case, by the model above."""
    reads = 2 * case.frames * case.pixels * (case.dim * case.element_size + 2 * 4)
    backward = part != "forward"
    return {
        "products": (2 + 2 * case.gradients * backward) * case.pairs * case.dim,
        "exp": (1 if case.one_hot else 2) * case.pairs,
        "bytes": reads + case.gradient_bytes * backward,
    }


def floor_seconds(case: Case, part: str, rates: dict[str, float]) -> tuple[float, str]:
    """(seconds, what bounds it: "products", "exp" or "bytes").

    Args:
        rates: as ``measure_rates`` gives them, FLOP/s per dtype under ``product_<dtype>``, ``exp`` per s, ``copy`` bytes/s.
    """
    rate = {"products": rates[f"product_{case.dtype}"], "exp": rates["exp"], "bytes": rates["copy"]}
    return max((needed / rate[name], name) for name, needed in work(case, part).items())


def best_seconds(run: Callable[[], object], device: str, rounds: int) -> float:
    """The fastest of some rounds, after one that warms up."""
    return min([timed(run, device) for _ in range(1 + rounds)][1:])


def product_rate(dtype: str, device: str, side: int) -> float:
    """FLOP/s of one large product [side, side] x [side, side]."""
    a, b = (torch.randn(side, side, device=device).to(DTYPES[dtype]) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / best_seconds(lambda: torch.mm(a, b, out=out), device, 3)


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
    sides = {dtype: SIDES.get(f"{device} {dtype}", SIDES[device]) for dtype in sorted(dtypes)}
    rates = {f"product_{dtype}": product_rate(dtype, device, side) for dtype, side in sides.items()}
    return {**rates, "exp": exp_rate(device), "copy": copy_rate(device)}
