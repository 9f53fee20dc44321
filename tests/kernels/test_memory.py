"""No buffer of N x M: the peak memory of a fresh process, measured by the operating system."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from laparoflow_kernels import flow_infonce
n, d, symmetric, backward = int(sys.argv[1]), 64, sys.argv[2] == "symmetric", sys.argv[3] == "backward"
torch.set_num_threads(2)
def make(n):
    q, k = (torch.nn.functional.normalize(torch.randn(1, n, d), dim=-1).requires_grad_(backward) for _ in range(2))
    return q, k, torch.randn(1, n, 2), torch.randn(1, n, 2)
def run(args):
    loss = flow_infonce(*args, symmetric=symmetric, backend="native")
    if backward:
        loss.backward()
    assert loss.isfinite()
run(make(256))  # libraries loaded, threads started
args = make(n)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(args)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize(("n", "direction", "what", "limit"), [
    (32768, "one", "backward", 400),
    (32768, "one", "forward", 60),
    (16384, "symmetric", "backward", 150),
])  # fmt: skip
def test_peak_memory_of_the_native_cpu_backend(n: int, direction: str, what: str, limit: float) -> None:
    """Under 400 MB at N = 32,768, D = 64, gradients included; the dense form needs over 8 GB."""
    out = subprocess.run([sys.executable, "-c", SCRIPT, str(n), direction, what], capture_output=True, text=True, check=True)
    assert float(out.stdout) < limit, f"{out.stdout.strip()} MB"
