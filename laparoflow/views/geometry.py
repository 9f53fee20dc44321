"""Geometric transforms as one exact map from view pixels to source pixels.

For a view of h x w pixels of a frame of H x W pixels, with pixel centres at integers, a view point p = (u, v) comes
from the source point

    x = project( M (p + e(p)) ),   M = T(centre) R(rotation) K(shear) F(flip) S(crop / view) P(perspective) T(-middle)

where e is the elastic displacement, a sum of a few plane waves. All of it is evaluated analytically, in float64, so that the
map and its inverse agree far below a thousandth of a pixel: there is no chain of resamplings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from laparoflow.views.settings import MAX_CYCLES, GeometrySettings

WAVES = 4


@dataclass(frozen=True)
class ViewTransform:
    """A drawn map from view pixels to source pixels for a batch of frames, float64.

    Attributes:
        matrix: [B, 3, 3], homography from (displaced) view pixels to source pixels.
        frequency, phase: [B, K, 2] and [B, K], waves of the elastic displacement in radians per view pixel.
        amplitude: [B, K, 2], in view pixels; all zero means no elastic displacement.
    """

    matrix: Tensor
    frequency: Tensor
    phase: Tensor
    amplitude: Tensor

    def to(self, device: torch.device | str) -> ViewTransform:
        return ViewTransform(*(value.to(device) for value in (self.matrix, self.frequency, self.phase, self.amplitude)))

    def scale(self, height: int, width: int) -> Tensor:
        """Source pixels per view pixel in the middle of a view of the given size, [B], the mean over directions."""
        centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=self.matrix.dtype, device=self.matrix.device)
        corner = centre + torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=centre.dtype, device=centre.device)
        middle, right, below = self.to_source(corner.expand(len(self.matrix), -1, -1)).unbind(1)
        return torch.linalg.det(torch.stack([right - middle, below - middle], 1)).abs().sqrt()

    def _elastic(self, points: Tensor) -> Tensor:
        angle = points @ self.frequency.transpose(1, 2) + self.phase[:, None]
        return torch.sin(angle) @ self.amplitude

    def to_source(self, points: Tensor) -> Tensor:
        """Map view points [B, P, 2] in pixels to source points [B, P, 2] in pixels, float64."""
        points = points.to(self.matrix)
        return _project(self.matrix, points + self._elastic(points))

    def grid(self, height: int, width: int) -> Tensor:
        """Source grid float64 [B, height, width, 2] of a view of the given size, (x, y) in source pixels."""
        rows = torch.arange(height, dtype=self.matrix.dtype, device=self.matrix.device)
        columns = torch.arange(width, dtype=self.matrix.dtype, device=self.matrix.device)
        v, u = torch.meshgrid(rows, columns, indexing="ij")
        points = torch.stack([u, v], -1).reshape(1, -1, 2)
        if bool(self.amplitude.any()):
            points = points + self._elastic_grid(rows, columns).reshape(len(self.matrix), -1, 2)
        return _project(self.matrix, points.expand(len(self.matrix), -1, -1)).reshape(-1, height, width, 2)

    def _elastic_grid(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The elastic displacement [B, h, w, 2] on a lattice, by sin(a + b) = sin a cos b + cos a sin b."""
        along = self.frequency[..., :1] * columns + self.phase[..., None]
        down = self.frequency[..., 1:] * rows
        first = torch.cat([torch.cos(down), torch.sin(down)], 1)
        second = torch.cat([torch.sin(along), torch.cos(along)], 1)
        strength = torch.cat([self.amplitude, self.amplitude], 1)
        planes = torch.einsum("bkv,bkc,bku->bcvu", first, strength, second)
        return planes.permute(0, 2, 3, 1)


def _project(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply [B, 3, 3] homographies to points [B, P, 2]."""
    mapped = points @ matrix[:, :2, :2].transpose(1, 2) + matrix[:, None, :2, 2]
    depth = points @ matrix[:, 2, :2, None] + matrix[:, None, 2:, 2]
    return mapped / depth


def _matrices(batch: int, entries: dict[tuple[int, int], Tensor | float]) -> Tensor:
    """Identity [B, 3, 3] with the given entries replaced."""
    result = torch.eye(3, dtype=torch.float64).repeat(batch, 1, 1)
    for (row, column), value in entries.items():
        result[:, row, column] = value
    return result


def draw_transform(
    settings: GeometrySettings,
    batch: int,
    source_size: tuple[int, int],
    view_size: tuple[int, int],
    generator: torch.Generator | None = None,
) -> ViewTransform:
    """One transform, on the CPU, for each frame of a batch of frames (H, W) and views (h, w).

    The same state of the CPU generator gives the same transforms.
    """
    (height, width), (h, w) = source_size, view_size

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        value = torch.rand(batch, *shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * value

    def chance(probability: float) -> Tensor:
        return 1.0 - 2.0 * (uniform(0.0, 1.0) < probability).double()

    aspect = torch.exp(uniform(math.log(settings.aspect[0]), math.log(settings.aspect[1]))) * (w / h)
    tallest = torch.minimum(torch.full_like(aspect, height), width / aspect)
    crop_h = tallest * torch.sqrt(uniform(*settings.scale))
    crop_w = crop_h * aspect
    centre_x = (width - 1) / 2 + uniform(-0.5, 0.5) * (width - crop_w)
    centre_y = (height - 1) / 2 + uniform(-0.5, 0.5) * (height - crop_h)
    flip_x, flip_y = chance(settings.flip), chance(settings.vertical_flip)
    rotation = torch.deg2rad(uniform(-settings.rotation, settings.rotation))
    shear = torch.tan(torch.deg2rad(uniform(-settings.shear, settings.shear)))
    tilt_x = uniform(-settings.perspective, settings.perspective) * 2 / w
    tilt_y = uniform(-settings.perspective, settings.perspective) * 2 / h

    c, s = torch.cos(rotation), torch.sin(rotation)
    matrix = _matrices(batch, {(0, 2): centre_x, (1, 2): centre_y})
    matrix = matrix @ _matrices(batch, {(0, 0): c, (0, 1): -s, (1, 0): s, (1, 1): c})
    matrix = matrix @ _matrices(batch, {(0, 1): shear})
    matrix = matrix @ _matrices(batch, {(0, 0): flip_x * crop_w / w, (1, 1): flip_y * crop_h / h})
    matrix = matrix @ _matrices(batch, {(2, 0): tilt_x, (2, 1): tilt_y})
    matrix = matrix @ _matrices(batch, {(0, 2): -(w - 1) / 2, (1, 2): -(h - 1) / 2})

    cycles = uniform(-MAX_CYCLES, MAX_CYCLES, WAVES, 2)
    size = torch.tensor([w, h], dtype=torch.float64)
    share = uniform(-1.0, 1.0, WAVES, 2) / (WAVES * math.sqrt(2.0))
    return ViewTransform(
        matrix=matrix,
        frequency=2 * math.pi * cycles / size,
        phase=uniform(0.0, 2 * math.pi, WAVES),
        amplitude=settings.elastic * min(h, w) * share,
    )
