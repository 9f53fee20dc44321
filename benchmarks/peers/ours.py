"""The package itself: every backend, and the native one as a loop over frames."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.case import DTYPES, Case
from benchmarks.inputs import Inputs, flow_loss
from benchmarks.peers.peer import Peer
from laparoflow_kernels.backends import NAMES, why_not


def _loss(backend: str, case: Case, part: str, inputs: Inputs) -> Tensor:
    flows = inputs.query_flow, inputs.key_flow
    if case.one_hot:  # the number of each pixel's own key as its guide: weight 1 for that key, 0 for all others
        own = torch.arange(case.pixels, device=inputs.target.device).expand_as(inputs.target)
        flows = inputs.target.float()[..., None], own.float()[..., None]
    # a mean lets the CPU backend form the gradients in the forward: the backward alone is that of a loss per pixel
    reduction = "none" if part == "backward" else "mean"
    result = flow_loss(case, inputs.query, inputs.key, *flows, normalized=True, backend=backend, reduction=reduction)
    losses = result if isinstance(result, tuple) else (result,)
    return sum(loss.mean() for loss in losses) / len(losses)  # type: ignore[union-attr, return-value]


def _reason(backend: str, case: Case) -> str | None:
    return why_not(backend, torch.device(case.device), DTYPES[case.dtype], case.dim)


def _peer(backend: str) -> Peer:
    return Peer(
        f"ours: {backend}", partial(_reason, backend), partial(_loss, backend),
        # matrices of pairs at once; the fused backends hold none
        predicted_bytes=lambda case: (14 if case.symmetric else 10) * 4 * case.pairs if backend == "reference" else 0.0,
        generates_code=backend == "triton",
    )  # fmt: skip


def _loop(case: Case, part: str, inputs: Inputs) -> Tensor:
    frames = zip(*(x.split(1) for x in vars(inputs).values()), strict=True)
    return torch.stack([_loss("native", case, part, Inputs(*frame)) for frame in frames]).mean()


LOOP = Peer(
    "ours: native, loop over frames",
    lambda case: _reason("native", case) if case.frames > 1 else "one frame: nothing to loop over",
    _loop,
)
PEERS = (*(_peer(name) for name in ("native", *(name for name in NAMES if name != "native"))), LOOP)
