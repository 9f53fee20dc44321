"""Dense PyTorch: the formula of the loss written down, every N x N matrix in memory; and torch.compile of it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import Inputs
from benchmarks.peers.peer import Peer


def pair_weights(query_flow: Tensor, key_flow: Tensor, bandwidth: float) -> Tensor:
    """Gaussian weights [B, N, M] of flows [B, N, 2], [B, M, 2]."""
    x, y = ((query_flow[..., c, None] - key_flow[..., None, :, c]) for c in (0, 1))
    return torch.exp((x * x + y * y) * (-0.5 / bandwidth**2))


def one_direction(s: Tensor, w: Tensor, dim: int, case: Case) -> Tensor:
    """Mean loss of one direction from logits s and weights w [B, N, M], summed over ``dim``."""
    denominator = s if case.negatives == "all" else s + torch.log1p(-w)
    lse = denominator.logsumexp(dim)
    if case.positives == "inside":
        return (lse - (s + w.log()).logsumexp(dim)).mean()
    return (lse - (w * s).sum(dim) / w.sum(dim)).mean()


def dense_loss(case: Case, part: str, inputs: Inputs) -> Tensor:
    """The mean loss of a case."""
    s = (inputs.query @ inputs.key.transpose(1, 2)).float() / case.temperature
    if case.one_hot:
        return torch.nn.functional.cross_entropy(s.flatten(0, 1), inputs.target.flatten())
    w = pair_weights(inputs.query_flow, inputs.key_flow, case.bandwidth)
    loss = one_direction(s, w, 2, case)
    return (loss + one_direction(s, w, 1, case)) / 2 if case.symmetric else loss


def matrices(case: Case) -> float:
    """Bytes of the matrices of pairs that are alive at once."""
    return (8 if case.symmetric or not case.plain else 5.5) * 4 * case.pairs


def symmetric_one_hot(case: Case) -> str | None:
    """The one combination that the dense form leaves out."""
    return "written for one direction of the one-hot loss" if case.one_hot and case.symmetric else None


@functools.cache
def _compiled(case: Case, part: str) -> Callable[[Inputs], Tensor]:
    """With static shapes, its fastest setting."""
    return torch.compile(functools.partial(dense_loss, case, part), dynamic=False)


PEERS = (
    Peer("dense PyTorch", symmetric_one_hot, dense_loss, matrices),
    Peer(
        "torch.compile of dense", symmetric_one_hot, lambda case, part, inputs: _compiled(case, "both")(inputs), matrices,
        generates_code=True,
    ),
)  # fmt: skip
