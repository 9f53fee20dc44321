"""The package itself: every backend, and the native one as a loop over frames."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.case import DTYPES, Case
from benchmarks.inputs import Inputs, flow_loss
from benchmarks.peers.peer import Peer
from laparoflow_kernels.backends import why_not


def _loss(backend: str, case: Case, part: str, inputs: Inputs) -> Tensor:
    # a mean lets the CPU backend form the gradients in the forward: the backward alone is that of a loss per pixel
    reduction = "none" if part == "backward" else "mean"
    result = flow_loss(case, *inputs[:4], normalized=True, backend=backend, reduction=reduction)
    losses = result if isinstance(result, tuple) else (result,)
    return sum(loss.mean() for loss in losses) / len(losses)


def _loop(case: Case, part: str, inputs: Inputs) -> Tensor:
    frames = zip(*(x.split(1) for x in inputs), strict=True)
    return torch.stack([_loss("native", case, part, Inputs(*frame)) for frame in frames]).mean()


def _reason(backend: str, case: Case) -> str | None:
    return why_not(backend, torch.device(case.device), DTYPES[case.dtype], case.dim)


def _loop_reason(case: Case) -> str | None:
    return _reason("native", case) if case.frames > 1 else "one frame: nothing to loop over"


def _matrices(case: Case) -> float:
    """Bytes of the matrices of pairs that the reference holds at once; the fused backends hold none."""
    return (14 if case.symmetric else 10) * 4 * case.pairs


PEERS = (
    Peer("ours: native", partial(_reason, "native"), partial(_loss, "native")),
    Peer("ours: reference", partial(_reason, "reference"), partial(_loss, "reference"), _matrices),
    Peer("ours: triton", partial(_reason, "triton"), partial(_loss, "triton"), generates_code=True),
    Peer("ours: native, loop over frames", _loop_reason, _loop),
)
