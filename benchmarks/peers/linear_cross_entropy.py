"""torch.nn.functional.linear_cross_entropy with chunking: the one-hot case, keys as the classes' weights."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import Inputs
from benchmarks.peers.peer import LossFunction, Peer, one_hot_only


def _why_not(case: Case) -> str | None:
    if not hasattr(torch.nn.functional, "linear_cross_entropy"):
        return f"torch {torch.__version__} does not have it"
    return one_hot_only(case)


def _make(case: Case, part: str) -> LossFunction:
    # with options it works in chunks and, like ours, forms the gradients in the forward
    options = torch.nn.LinearCrossEntropyOptions() if hasattr(torch.nn, "LinearCrossEntropyOptions") else None

    def loss(inputs: Inputs) -> Tensor:
        query = inputs.query[0] / case.temperature
        return torch.nn.functional.linear_cross_entropy(query, inputs.key[0], inputs.target[0], options=options)

    return loss


PEER = Peer("torch linear_cross_entropy", _why_not, _make, gradients_in_forward=True)
