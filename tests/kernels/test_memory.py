"""No buffer of N x M, and none that grows with threads times keys: the peak memory of a fresh process, by the system."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from laparoflow_kernels import flow_infonce
from tests.numerics import unit

SCRIPT = """
import resource, sys, torch
from laparoflow_kernels import flow_infonce
n, m, d, what = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split()
torch.set_num_threads(2)
def make(n, m):
    q, k = (torch.nn.functional.normalize(torch.randn(1, x, d), dim=-1) for x in (n, m))
    return q.requires_grad_("dq" in what), k.requires_grad_("dk" in what), torch.randn(1, n, 2), torch.randn(1, m, 2)
def run(args):
    loss = flow_infonce(*args, symmetric="symmetric" in what, backend="native")
    if loss.requires_grad:
        loss.backward()
    assert loss.isfinite()
run(make(256, 256))  # libraries loaded, threads started
args = make(n, m)
torch.use_deterministic_algorithms("deterministic" in what)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(args)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize(("n", "m", "d", "what", "limit"), [
    (32768, 32768, 64, "dq dk", 120),  # 17 MB of gradients; the dense form needs over 8 GB
    (32768, 32768, 64, "", 60),
    (16384, 16384, 64, "dq dk symmetric", 150),
    (128, 400_000, 16, "dq", 200),  # a bank: the pair terms of all keys would take 205 MB a thread
    (512, 300_000, 64, "dq dk deterministic", 400),  # 77 MB of gradients; a share for each of 8 groups would take 614
])  # fmt: skip
def test_peak_memory_of_the_native_cpu_backend(n: int, m: int, d: int, what: str, limit: float) -> None:
    given = [str(n), str(m), str(d), what]
    out = subprocess.run([sys.executable, "-c", SCRIPT, *given], capture_output=True, text=True, check=True)
    assert float(out.stdout) < limit, f"{out.stdout.strip()} MB"


@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_pair_terms_that_are_not_stored_give_the_same_bits(positives: str, temperature: float) -> None:
    """One thread stores the pair terms of all these keys, nine store those of 29,000 each and make the others again."""
    q, k = (unit(1, n, 8, seed=n).float().requires_grad_() for n in (576, 32_000))
    generator = torch.Generator().manual_seed(0)
    flows = [torch.randn(1, n, 2, generator=generator) for n in (576, 32_000)]
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 9):
            torch.set_num_threads(count)
            loss = flow_infonce(q, k, *flows, temperature=temperature, positives=positives, backend="native")
            results.append((loss, *torch.autograd.grad(loss, (q, k))))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
