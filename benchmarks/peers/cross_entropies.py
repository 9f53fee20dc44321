"""Cross entropies over a class per key, the one-hot case: keys are the classifier's rows.

torch.nn.functional.linear_cross_entropy with chunking, and two in Triton (GPU): cut-cross-entropy, liger-kernel.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import Inputs
from benchmarks.peers.peer import Peer, not_installed


def _why_not(case: Case) -> str | None:
    if not case.one_hot:
        return "one positive per query only"
    return "one frame in one direction only" if case.symmetric or case.frames > 1 else None


def _torch_why_not(case: Case) -> str | None:
    here = hasattr(torch.nn.functional, "linear_cross_entropy")
    return _why_not(case) or (None if here else f"torch {torch.__version__} does not have it")


def _triton_why_not(module: str, case: Case) -> str | None:
    return "needs a GPU" if case.device != "cuda" else _why_not(case) or not_installed(module)


def _torch(case: Case, part: str, x: Inputs) -> Tensor:
    # with options it works in chunks and, like ours, forms the gradients in the forward
    options = torch.nn.LinearCrossEntropyOptions() if hasattr(torch.nn, "LinearCrossEntropyOptions") else None
    query = x.query[0] / case.temperature
    return torch.nn.functional.linear_cross_entropy(query, x.key[0], x.target[0], options=options)


def _cut(case: Case, part: str, x: Inputs) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(x.query[0] / case.temperature, x.key[0], x.target[0], impl="cce")


def _liger(case: Case, part: str, x: Inputs) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy(x.query[0] / case.temperature, x.key[0], x.target[0])


PEERS = (
    Peer("torch linear_cross_entropy", _torch_why_not, _torch, gradients_in_forward=True),
    Peer("cut-cross-entropy", partial(_triton_why_not, "cut_cross_entropy"), _cut, generates_code=True),
    Peer("liger-kernel", partial(_triton_why_not, "liger_kernel"), _liger, gradients_in_forward=True, generates_code=True),
)
