"""Coordinate-weighted pixel contrast (the rule of PixContrast): pixels near each other in the frame are positives.

    w_ij = phi(|x_i - x_j| / bandwidth),   x the source coordinates in units of a view cell's diagonal

A cell's diagonal is the mean over both views, so that the bandwidth 0.7 of the original with its top-hat weight
keeps its meaning under any crop and scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laparoflow.methods.base import MethodOutput, PixelView
from laparoflow.methods.contrast import ContrastMethod


def cell_diagonal(grid: Tensor) -> Tensor:
    """Mean diagonal of a view's cells in source pixels: grid [B, h, w, 2] (x, y), h and w at least 2 -> [B].

    Raises:
        ValueError: the grid is smaller than 2 x 2.
    """
    if grid.shape[1] < 2 or grid.shape[2] < 2:
        raise ValueError(f"grid: expected at least 2 x 2 cells, got {tuple(grid.shape[1:3])}")
    diagonal = grid[:, 1:, 1:] - grid[:, :-1, :-1]
    return diagonal.float().norm(dim=-1).mean(dim=(1, 2))


def place_guides(first: PixelView, second: PixelView) -> list[Tensor]:
    """Source coordinates of both views in cell diagonals, two maps [B, 2, h, w]."""
    unit = (cell_diagonal(first.grid) + cell_diagonal(second.grid)) / 2
    unit = torch.clamp(unit, min=1e-6).view(-1, 1, 1, 1)
    return [view.grid.float().movedim(-1, 1) / unit for view in (first, second)]


class CoordinateMethod(ContrastMethod):
    """See the module."""

    def forward(self, first: PixelView, second: PixelView) -> MethodOutput:
        """Loss of two views."""
        guides = place_guides(first, second)
        return self.contrast_views(first, second, guides, [first.inside, second.inside])
