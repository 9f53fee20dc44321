"""torch.compile of the dense form, with static shapes (its fastest setting)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import Inputs
from benchmarks.peers import dense
from benchmarks.peers.peer import LossFunction, Peer


@functools.cache
def _compiled(case: Case) -> LossFunction:
    @torch.compile(dynamic=False)
    def loss(inputs: Inputs) -> Tensor:
        return dense.dense_loss(inputs, case)

    return loss


def _make(case: Case, part: str) -> LossFunction:
    return _compiled(case)


PEER = Peer(
    "torch.compile of dense", dense.symmetric_one_hot, _make, predicted_bytes=dense.matrices, generates_code=True
)
