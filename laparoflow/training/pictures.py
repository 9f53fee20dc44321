"""One picture of what a network sees in a frame: principal components of its features, pair weights of a few pixels.

    frame with the pixels marked | components as colours | weights of pixel 1 | weights of pixel 2 | ...
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from laparoflow.methods.base import Method, PixelView, place_guides
from laparoflow.methods.coordinates import CoordinateMethod
from laparoflow.methods.flow import FlowMethod, FlowSettings, over_spread
from laparoflow.report.pictures import Components
from laparoflow.training.frames import FrameBatch
from laparoflow.training.pairs import describe_view
from laparoflow.views.two_views import View
from laparoflow_kernels import pairwise_flow_weights, robust_flow_spread

MARK = 2  # half the side of a marked pixel's square


def whole_frame(batch: FrameBatch, row: int, stride: int) -> PixelView:
    """A frame of the batch as a view that changes nothing, cut to whole cells of ``stride`` pixels."""
    height, width = (side // stride * stride for side in batch.image.shape[-2:])
    flow, valid = batch.flow[row : row + 1].float(), batch.valid[row : row + 1]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=flow.device),
        torch.arange(width, dtype=torch.float32, device=flow.device),
        indexing="ij",
    )
    image = batch.image[row : row + 1, :, :height, :width].float() / 255
    view = View(image, torch.stack([x, y], -1)[None], valid[:, :height, :width])
    return describe_view(view, flow, valid, robust_flow_spread(flow, valid, floor=0.0), stride)


def pair_guides(method: Method, views: Sequence[PixelView]) -> tuple[list[Tensor], list[Tensor], str, float]:
    """What a method's pair weights compare: a map [B, F, h, w] and a mask [B, h, w] per view, flow kernel, bandwidth.

    Methods without pair weights show those of the flow method's defaults.
    """
    if isinstance(method, FlowMethod):
        guides, masks = [method.guide(view) for view in views], [method.mask(view) for view in views]
        return guides, masks, method.contrast.kernel, method.contrast.bandwidth
    if isinstance(method, CoordinateMethod):
        guides = place_guides(views[0].grid, views[-1].grid)[: len(views)] if views else []
        return guides, [view.inside for view in views], method.contrast.kernel, method.contrast.bandwidth
    usual = FlowSettings()
    guides = [over_spread(v.flow, v.spread, usual.min_spread) for v in views]
    return guides, [view.valid for view in views], usual.flow_kernel, usual.bandwidth


def pair_weights(method: Method, view: PixelView, pixels: Sequence[tuple[float, float]]) -> Tensor:
    """Weights [P, h, w] in 0..1 of the pairs of pixels, (x, y) as shares of width and height, with all cells of one frame.

    They are those of the method, see :func:`pair_guides`; 0 where a cell is masked.
    """
    (guide,), (mask,), kernel, bandwidth = pair_guides(method, [view])
    rows, columns = mask.shape[-2:]
    cells = [min(int(y * rows), rows - 1) * columns + min(int(x * columns), columns - 1) for x, y in pixels]
    every, keep = guide.flatten(2).transpose(1, 2), mask.flatten(1)
    weights = pairwise_flow_weights(every[:, cells], every, bandwidth=bandwidth, flow_kernel=kernel, key_mask=keep)
    return (weights[0] * keep[0, cells, None]).reshape(len(cells), rows, columns)


@torch.no_grad()
def draw_features(method: Method, batch: FrameBatch, pixels: Sequence[tuple[float, float]]) -> Tensor:
    """The picture of the module's description for the first frame of a batch, uint8 [3, H, W * (2 + P)]."""
    view = whole_frame(batch, 0, method.encoder.feature_stride)
    image = view.image[0].clone()
    height, width = image.shape[-2:]
    for x, y in pixels:
        column, row = min(int(x * width), width - 1), min(int(y * height), height - 1)
        marked = image[:, max(row - MARK, 0) : row + MARK + 1, max(column - MARK, 0) : column + MARK + 1]
        marked.copy_(image.new_tensor([1.0, 1.0, 0.0]).view(3, 1, 1).expand_as(marked))
    features = method.encoder.features(view.image)[0].cpu()
    colours = torch.from_numpy(Components(features.flatten(1).T).picture(features)).movedim(-1, 0).to(image) / 255
    maps = [colours, *(weights.expand(3, -1, -1) for weights in pair_weights(method, view, pixels))]
    tiles = [image, *(F.interpolate(tile[None].float(), (height, width))[0] for tile in maps)]
    return (torch.cat(tiles, dim=-1).clamp(0, 1) * 255).byte().cpu()
