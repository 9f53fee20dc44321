"""FlexAttention: the loss as two attentions over the pairs (GPU).

    lse_i                  the log-sum-exp that attention of q over k returns
    sum_j w_ij k_j / W_i   attention whose score is log w_ij = -|f_i - g_j|^2 / (2 bandwidth^2), values k
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import Inputs
from benchmarks.peers.peer import Peer, flow_loss_only


def _why_not(case: Case) -> str | None:
    if case.device != "cuda":
        return "needs a GPU: its CPU form has no backward"
    if case.symmetric:
        return "written for one direction"
    return flow_loss_only(case)


@functools.cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _loss(case: Case, part: str, inputs: Inputs) -> Tensor:
    from torch.nn.attention.flex_attention import AuxRequest

    f, g = inputs.query_flow, inputs.key_flow
    precision = -0.5 / case.bandwidth**2

    def log_weight(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        x, y = f[b, i, 0] - g[b, j, 0], f[b, i, 1] - g[b, j, 1]
        return precision * (x * x + y * y)

    q, k = inputs.query[:, None], inputs.key[:, None]
    _, aux = _compiled()(q, k, k.detach(), scale=1 / case.temperature, return_aux=AuxRequest(lse=True))
    positive = _compiled()(q.detach(), k.detach(), k, score_mod=log_weight)
    return (aux.lse - (q.float() * positive.float()).sum(-1) / case.temperature).mean()


PEER = Peer("FlexAttention", _why_not, _loss, generates_code=True)
