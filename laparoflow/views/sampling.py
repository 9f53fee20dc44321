"""Sampling of images, flow and masks at source coordinates.

Coordinates are (x, y) in source pixels with pixel centres at integers. Flow is read where the view pixel
comes from and stays as it is: in source-frame axes and source-frame pixels, however the view is turned.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NEGLIGIBLE = 1e-3  # bilinear weight below which a neighbour is not looked at; also the slack at the frame's edge


def _check_grid(name: str, values: Tensor, dims: int, grid: Tensor) -> None:
    if values.dim() != dims:
        raise ValueError(f"{name} must have {dims} dimensions, got shape {list(values.shape)}")
    if grid.dim() != 4 or grid.shape[-1] != 2 or grid.shape[0] != values.shape[0]:
        raise ValueError(f"grid must be [B, h, w, 2] with B = {values.shape[0]} as in {name}, got shape {list(grid.shape)}")


def _bilinear(images: Tensor, grid: Tensor, padding: str) -> Tensor:
    """Bilinear sampling in at least float32; ``padding`` is "zeros" or "border"."""
    height, width = images.shape[-2:]
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    size = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=grid.dtype, device=grid.device)
    scaled = (2.0 * grid / size - 1.0).to(dtype)
    sampled = functional.grid_sample(images.to(dtype), scaled, mode="bilinear", padding_mode=padding, align_corners=True)
    return sampled.to(images.dtype)


def sample_image(images: Tensor, grid: Tensor, halvings: Tensor | None = None) -> Tensor:
    """Images float [B, C, H, W] sampled bilinearly at a grid [B, h, w, 2]: [B, C, h, w], black outside the frame.

    ``halvings``, int64 [B] on the CPU, is how often each image is halved by averaging before it is sampled, so that a view
    that shrinks it does not alias. The coordinates stay exact. None means never.
    """
    _check_grid("images", images, 4, grid)
    if halvings is None or not bool(halvings.any()):
        return _bilinear(images, grid, "zeros")
    result = images.new_empty(*images.shape[:2], *grid.shape[1:3])
    limit = torch.tensor(images.shape[:1:-1], dtype=grid.dtype, device=grid.device)
    for level in halvings.unique().tolist():
        rows = torch.nonzero(halvings == level)[:, 0].to(images.device)
        where, step = grid[rows], 2**level
        smaller = functional.avg_pool2d(images[rows], step, ceil_mode=True, count_include_pad=False)
        inside = ((where >= -0.5) & (where <= limit - 0.5)).all(-1)
        result[rows] = _bilinear(smaller, (where + 0.5) / step - 0.5, "border") * inside[:, None]
    return result


def sample_flow(flow: Tensor, grid: Tensor) -> Tensor:
    """Flow [B, C, H, W] in source pixels sampled bilinearly at a grid [B, h, w, 2]: [B, C, h, w], at least float32.

    The vectors are not turned or scaled. Outside the frame the flow of the edge is continued (such pixels are False in
    ``sample_mask``). A value that is not finite shows only in pixels that touch it.
    """
    _check_grid("flow", flow, 4, grid)
    flow = flow if flow.dtype == torch.float64 else flow.float()
    batch, channels, height, width = flow.shape
    flat = flow.reshape(batch, channels, -1)
    limit = torch.tensor([width - 1, height - 1], dtype=grid.dtype, device=grid.device)
    x, y = torch.minimum(grid.clamp(min=0), limit).unbind(-1)
    result = flow.new_zeros(batch, channels, *grid.shape[1:3])
    total = flow.new_zeros(batch, 1, *grid.shape[1:3])
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = torch.floor(x) + right, torch.floor(y) + below
        weight = ((1 - (x - column).abs()) * (1 - (y - row).abs())).to(flow.dtype)[:, None]
        index = row.clamp(max=height - 1).long() * width + column.clamp(max=width - 1).long()
        values = flat.gather(2, index.reshape(batch, 1, -1).expand(-1, channels, -1)).reshape(result.shape)
        result = result + torch.where(weight > NEGLIGIBLE, values * weight, torch.zeros_like(values))
        total = total + torch.where(weight > NEGLIGIBLE, weight, torch.zeros_like(weight))
    return result / total


def sample_mask(valid: Tensor, grid: Tensor) -> Tensor:
    """Which points of a grid [B, h, w, 2] are inside the frame and touch no pixel that ``valid`` [B, H, W] does not keep."""
    _check_grid("valid", valid, 3, grid)
    if valid.dtype != torch.bool:
        raise TypeError(f"valid must be bool with True = keep, got {valid.dtype}")
    height, width = valid.shape[1:]
    x, y = grid[..., 0], grid[..., 1]
    inside = (x >= -NEGLIGIBLE) & (x <= width - 1 + NEGLIGIBLE) & (y >= -NEGLIGIBLE) & (y <= height - 1 + NEGLIGIBLE)
    invalid = _bilinear((~valid)[:, None].float(), torch.nan_to_num(grid, nan=0.0), "zeros")
    return inside & (invalid[:, 0] <= NEGLIGIBLE)


def cell_grid(grid: Tensor, stride: int) -> Tensor:
    """Source coordinates [B, h / stride, w / stride, 2] of the centres of stride x stride cells of a grid [B, h, w, 2].

    The middle pixel's coordinates for an odd stride, the mean of the four middle pixels' for an even one. A ValueError where
    the view is not a whole number of cells.
    """
    batch, height, width, _ = grid.shape
    if stride < 1 or height % stride or width % stride:
        raise ValueError(f"stride must divide the view's height and width {height} x {width}, got {stride}")
    cells = grid.reshape(batch, height // stride, stride, width // stride, stride, 2)
    low, high = (stride - 1) // 2, stride // 2 + 1
    return cells[:, :, low:high, :, low:high].mean(dim=(2, 4))
