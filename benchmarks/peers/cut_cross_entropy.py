"""cut-cross-entropy: the one-hot case in Triton (GPU), keys as the classifier's rows."""

from __future__ import annotations

from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import Inputs
from benchmarks.peers.peer import LossFunction, Peer, not_installed, one_hot_only


def _why_not(case: Case) -> str | None:
    if case.device != "cuda":
        return "needs a GPU"
    if case.dtype == "float64":
        return "no float64"
    return one_hot_only(case) or not_installed("cut_cross_entropy", "cut-cross-entropy")


def _make(case: Case, part: str) -> LossFunction:
    from cut_cross_entropy import linear_cross_entropy

    def loss(inputs: Inputs) -> Tensor:
        return linear_cross_entropy(inputs.query[0] / case.temperature, inputs.key[0], inputs.target[0], impl="cce")

    return loss


PEER = Peer("cut-cross-entropy", _why_not, _make, generates_code=True)
