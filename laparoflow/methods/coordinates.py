"""Coordinate-weighted pixel contrast (the rule of PixContrast): pixels near each other in the frame are positives.

    w_ij = phi(|x_i - x_j| / bandwidth),   x the source coordinates in units of a view cell's diagonal

A cell's diagonal is the mean over both views, so that the bandwidth 0.7 of the original with its top-hat weight
keeps its meaning under any crop and scale.
"""

from __future__ import annotations

from laparoflow.methods.base import MethodOutput, NearView, PixelView, place_guides
from laparoflow.methods.contrast_method import ContrastMethod


class CoordinateMethod(ContrastMethod):
    """See the module."""

    def forward(self, first: PixelView, second: PixelView, near: NearView | None = None) -> MethodOutput:
        """Loss of two views, and of the same places in neighbours."""
        guides = place_guides(first.grid, second.grid)
        return self.contrast_views(first, second, guides, [first.inside, second.inside], near)
