"""KeOps: the three reductions of the loss as symbolic matrices, compiled and differentiated by KeOps."""

from __future__ import annotations

import shutil

from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import Inputs
from benchmarks.peers.peer import Peer, flow_loss_only, not_installed


def _why_not(case: Case) -> str | None:
    if case.dtype not in ("float32", "float64"):
        return f"no {case.dtype} here"
    if case.device == "cpu" and not shutil.which("g++"):
        return "needs g++ on the PATH"
    return flow_loss_only(case) or not_installed("pykeops")


def _loss(case: Case, part: str, inputs: Inputs) -> Tensor:
    from pykeops.torch import LazyTensor

    def one_direction(q: Tensor, k: Tensor, f: Tensor, g: Tensor) -> Tensor:
        q_i, f_i = (LazyTensor(x[:, :, None, :].contiguous()) for x in (q / case.temperature, f))
        k_j, g_j = (LazyTensor(x[:, None, :, :].contiguous()) for x in (k, g))
        s = (q_i * k_j).sum(-1)
        w = (-0.5 / case.bandwidth**2 * ((f_i - g_j) ** 2).sum(-1)).exp()
        return (s.logsumexp(2) - (w * s).sum(2) / w.sum(2)).mean()

    q, k, f, g = inputs.query, inputs.key, inputs.query_flow, inputs.key_flow
    forward = one_direction(q, k, f, g)
    return (forward + one_direction(k, q, g, f)) / 2 if case.symmetric else forward


# its code depends on D, not on N: the small warm-up compiles it
PEER = Peer("KeOps", _why_not, _loss)
