"""FlexAttention: the loss as two attentions over the pairs (GPU).

    lse_i                  the log-sum-exp that attention of q over k returns
    sum_j w_ij k_j / W_i   attention whose score is log w_ij = -|f_i - g_j|^2 / (2 bandwidth^2), values k
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import Inputs
from benchmarks.peers.peer import LossFunction, Peer, flow_loss_only


def _why_not(case: Case) -> str | None:
    if case.device != "cuda":
        return "needs a GPU: its CPU form has no backward"
    if case.symmetric:
        return "written for one direction"
    return flow_loss_only(case)


def _make(case: Case, part: str) -> LossFunction:
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    precision = -0.5 / case.bandwidth**2

    def loss(inputs: Inputs) -> Tensor:
        f, g = inputs.query_flow, inputs.key_flow

        def log_weight(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            x, y = f[b, i, 0] - g[b, j, 0], f[b, i, 1] - g[b, j, 1]
            return precision * (x * x + y * y)

        q, k = inputs.query[:, None], inputs.key[:, None]
        lse_too = AuxRequest(lse=True)
        _, aux = compiled(q, k, k.detach(), scale=1 / case.temperature, return_aux=lse_too)  # type: ignore[arg-type]
        positive = compiled(q.detach(), k.detach(), k, score_mod=log_weight)
        return (aux.lse - (q.float() * positive.float()).sum(-1) / case.temperature).mean()

    return loss


PEER = Peer("FlexAttention", _why_not, _make, generates_code=True)
