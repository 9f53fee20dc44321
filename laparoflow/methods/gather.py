"""Batches spread over processes: joined with gradients, or averaged as one batch would be."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from laparoflow_kernels.distributed import joint_value


def rank_and_world_size() -> tuple[int, int]:
    """This process's number and how many train; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def gather_batch(local: Tensor) -> Tensor:
    """Join [B, ...] of every process into [world * B, ...] in rank order, with gradients.

    The backward pass sums the gradients that every process has for this one's part.  As each process then computes the whole
    loss and DDP averages over processes, the result is the joint batch's gradient. Every process must hold the same shape.
    """
    if rank_and_world_size()[1] == 1:
        return local
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(local.contiguous())))


def joint_mean(total: Tensor, count: Tensor) -> Tensor:
    """Mean over the items of all processes, of which this one has ``total`` as sum and ``count`` as number; 0 without any.

    DDP's average makes its gradient the joint batch's.
    """
    return joint_value([(total, count)])[0]
