"""Coordinates of the source frame as guides."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_diagonal(grid: Tensor) -> Tensor:
    """Mean diagonal of a view's cells in source pixels: grid [B, h, w, 2] (x, y), h and w at least 2 -> [B]."""
    if grid.shape[1] < 2 or grid.shape[2] < 2:
        raise ValueError(f"grid: expected at least 2 x 2 cells, got {tuple(grid.shape[1:3])}")
    diagonal = grid[:, 1:, 1:] - grid[:, :-1, :-1]
    return diagonal.float().norm(dim=-1).mean(dim=(1, 2))


def place_guides(first: Tensor, second: Tensor) -> list[Tensor]:
    """Grids [B, h, w, 2] of two views as maps [B, 2, h, w] in units of a cell's diagonal, the mean of both views'."""
    unit = (cell_diagonal(first) + cell_diagonal(second)) / 2
    unit = torch.clamp(unit, min=1e-6).view(-1, 1, 1, 1)
    return [grid.float().movedim(-1, 1) / unit for grid in (first, second)]
