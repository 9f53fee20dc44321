"""Chunked PyTorch with a custom autograd function: 256 rows at a time, the logits computed again in the backward.

    forward   lse_i, W_i of a block of rows against all keys; saves [N] of each
    backward  dS = (e^(s - lse) - w / W) * grad / N;  dq = dS k / t of the block, dk += dS^T q / t
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import Inputs
from benchmarks.peers.dense import pair_weights
from benchmarks.peers.peer import Peer, flow_loss_only

ROWS = 256


class ChunkedLoss(torch.autograd.Function):
    """Mean outside loss of one frame: query, key [N, D], flows [N, 2]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, f: Tensor, g: Tensor, temperature: float, bandwidth: float) -> Tensor:
        total = torch.zeros((), device=query.device)
        lse, weight_sum = (torch.empty(len(query), device=query.device) for _ in range(2))
        for start in range(0, len(query), ROWS):
            rows = slice(start, start + ROWS)
            s = (query[rows] @ key.T).float() / temperature
            w = pair_weights(f[rows], g, bandwidth)
            lse[rows], weight_sum[rows] = s.logsumexp(1), w.sum(1)
            total += (lse[rows] - (w * s).sum(1) / weight_sum[rows]).sum()
        ctx.save_for_backward(query, key, f, g, lse, weight_sum)
        ctx.temperature, ctx.bandwidth = temperature, bandwidth
        return total / len(query)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key, f, g, lse, weight_sum = ctx.saved_tensors
        dq, dk = torch.empty_like(query), torch.zeros_like(key, dtype=torch.float32)
        scale = grad_outputs[0] / (len(query) * ctx.temperature)
        for start in range(0, len(query), ROWS):
            rows = slice(start, start + ROWS)
            s = (query[rows] @ key.T).float() / ctx.temperature
            ds = s.sub_(lse[rows, None]).exp_()
            ds -= pair_weights(f[rows], g, ctx.bandwidth).div_(weight_sum[rows, None])
            ds = ds.mul_(scale).to(query.dtype)
            dq[rows] = ds @ key
            dk += ds.T @ query[rows]
        return dq, dk.to(key.dtype), None, None, None, None


def _loss(case: Case, part: str, inputs: Inputs) -> Tensor:
    losses = []
    for q, k, f, g in zip(inputs.query, inputs.key, inputs.query_flow, inputs.key_flow, strict=True):
        losses.append(ChunkedLoss.apply(q, k, f, g, case.temperature, case.bandwidth))
        if case.symmetric:
            losses.append(ChunkedLoss.apply(k, q, g, f, case.temperature, case.bandwidth))
    return torch.stack(losses).mean()


PEER = Peer("chunked PyTorch", flow_loss_only, _loss)
