"""AdamW with weight decay where it belongs, layer decay, and a cosine schedule with warm-up."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from laparoflow.training.settings import OptimiserSettings

BLOCK = re.compile(r"encoder\.backbone\.model\.blocks\.(\d+)\.")


def rate_at(step: int, total: int, settings: OptimiserSettings) -> float:
    """Factor on the learning rate at optimiser step ``step`` (from 0) of ``total``."""
    warmup = round(settings.warmup * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * progress)) / 2


def depth_of(name: str, blocks: int) -> int:
    """Place of a parameter counted from the input: 0 patch embedding, 1 the first block, ``blocks`` + 1 the rest."""
    found = BLOCK.search(name)
    if found:
        return int(found.group(1)) + 1
    stem = ("patch_embed", "pos_embed", "cls_token", "reg_token", "norm_pre")
    return 0 if any(f"encoder.backbone.model.{part}" in name for part in stem) else blocks + 1


def freeze(method: nn.Module, blocks: int, part: str | int | None) -> None:
    """Keeps a part of the backbone as it is, see ``OptimiserSettings.freeze``.

    A ValueError for a part that the backbone has not.
    """
    if part is None:
        return
    last = 0 if part == "stem" else part
    if isinstance(last, str) or not (part == "stem" or 1 <= last <= blocks):
        raise ValueError(f"optimiser.freeze: expected stem, null or a number of blocks from 1 to {blocks}, got {part!r}")
    for name, parameter in method.named_parameters():
        if depth_of(name, blocks) <= last:
            parameter.requires_grad_(False)


def parameter_groups(method: nn.Module, blocks: int, settings: OptimiserSettings) -> list[dict[str, Any]]:
    """Groups of equal learning rate and weight decay over the trainable parameters."""
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = depth_of(name, blocks)
        decayed = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token", "reg_token"))
        rate = settings.rate * settings.layer_decay ** (blocks + 1 - depth)
        options = {"params": [], "lr": rate, "weight_decay": settings.weight_decay if decayed else 0.0}
        groups.setdefault((depth, decayed), options)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def build_optimiser(method: nn.Module, blocks: int, total: int, settings: OptimiserSettings) -> tuple[AdamW, LambdaLR]:
    """Optimiser and per-step schedule over ``total`` optimiser steps."""
    optimiser = AdamW(parameter_groups(method, blocks, settings), lr=settings.rate, betas=settings.betas)
    return optimiser, LambdaLR(optimiser, lambda step: rate_at(step, total, settings))
