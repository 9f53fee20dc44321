"""From a batch of frames to two views with the flow of each embedding cell."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from laparoflow.methods.base import NearView, PixelView
from laparoflow.training.frames import FrameBatch, mixed_seed
from laparoflow.views.sampling import cell_grid, sample_flow, sample_mask
from laparoflow.views.two_views import TwoViews, View
from laparoflow_kernels import robust_flow_spread


def cell_inside(inside: Tensor, stride: int) -> Tensor:
    """Cells of which at least three quarters are valid: bool [B, h, w] -> [B, h / stride, w / stride]."""
    return F.avg_pool2d(inside.float()[:, None], stride)[:, 0] >= 0.75


def describe_view(view: View, flow: Tensor, valid: Tensor, spread: Tensor, stride: int) -> PixelView:
    """A view with the flow and the masks of its embedding cells, whose stride is in view pixels.

    The flow [B, 2 G, H, W], where it is ``valid`` [B, H, W] and its spread [B, G] are of the source frames.
    """
    cells = cell_grid(view.grid, stride)
    inside = cell_inside(view.inside, stride)
    trusted = sample_mask(valid, cells) & inside
    height, width = flow.shape[-2:]
    return PixelView(view.image, cells, sample_flow(flow, cells), trusted, inside, spread, (height, width))


def others(clip: Tensor) -> Tensor:
    """For each frame of a batch the nearest one before it, counted around, of another clip; else the one before it."""
    count = len(clip)
    before = (torch.arange(count, device=clip.device)[:, None] - torch.arange(1, count + 1, device=clip.device)) % count
    differs = clip[before] != clip[:, None]
    differs[:, 0] |= ~differs.any(1)
    return before.gather(1, differs.float().argmax(1, keepdim=True))[:, 0]


def two_views(
    batch: FrameBatch, views: TwoViews, stride: int, seed: tuple[int, ...], shuffle_flow: bool = False
) -> tuple[PixelView, PixelView]:
    """Two views of each frame, with embeddings of that stride, reproducible from ``seed``.

    The seed names the run, the batch and the process. ``shuffle_flow`` takes the flow of a frame of another clip,
    or where there is none of another frame (a control: motion without meaning).
    """
    flow, valid = batch.flow, batch.valid
    if shuffle_flow:
        other = others(batch.clip)
        flow, valid = flow[other], valid[other]
    spread = robust_flow_spread(flow, valid, floor=0.0)
    generator = torch.Generator().manual_seed(mixed_seed(*seed))
    pair = views(batch.image.float() / 255, batch.valid, generator)
    first, second = (describe_view(view, flow, valid, spread, stride) for view in pair)
    return first, second


def near_view(batch: FrameBatch, first: PixelView, views: TwoViews, stride: int, seed: tuple[int, ...]) -> NearView | None:
    """A view of each neighbour in a batch whose first view is given, drawn anew as in ``two_views``; None without any."""
    near = batch.near
    if near is None:
        return None
    generator = torch.Generator().manual_seed(mixed_seed(*seed, 2))
    view = views.one(near.image.float() / 255, near.valid, generator)
    here = first.grid[near.row]
    moved = here + sample_flow(near.flow, here).movedim(1, -1)
    trusted = sample_mask(near.trusted, here) & first.inside[near.row]
    return NearView(near.row, view.image, cell_grid(view.grid, stride), cell_inside(view.inside, stride), moved, trusted)
