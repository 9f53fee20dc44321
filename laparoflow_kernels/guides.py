"""Guides: what the pair weights compare, when that is not plain flow alone::

    w_ij = phi(|u_i - u_j|),   u = [a / sigma_a, b / sigma_b, ...]

A guide is any map with 1 to 8 channels that goes in the place of the flow. Each part is divided by its own bandwidth, so
that the joined guide goes with ``bandwidth=1``; with the gaussian flow kernel the weights of the parts then multiply::

    flow and place     join_guides((flow, 1.5), (crop_coordinates(boxes, size), 40.0))
    place alone        join_guides((crop_coordinates(boxes, size), 0.7 * cell))       top-hat: the rule of PixContrast
    several frames     stacked_flows(flows)                                           bandwidth stays in pixels
    depth, or any map  join_guides((flow, 1.5), (depth, 0.1))
"""

from __future__ import annotations

import torch
from torch import Tensor

from laparoflow_kernels import checks

TRIM_PERCENT = 98
MAX_PIXELS = 4096


def join_guides(*parts: tuple[Tensor, float]) -> Tensor:
    """Join maps into one guide in units of their bandwidths.

    Args:
        parts: pairs (map [B, C, H, W], bandwidth in the map's unit), all of one B, H, W; 1 to 8 channels together.

    Returns:
        [B, sum of C, H, W] in float32 (float64 when a part is), without gradient; for ``bandwidth=1.0``.

    Raises:
        TypeError: a part is not a floating tensor.
        ValueError: no part, shapes that differ, a bandwidth that is not above 0, more than 8 channels.

    Example:
        >>> guide = join_guides((torch.ones(1, 2, 3, 3), 2.0), (torch.zeros(1, 1, 3, 3), 1.0))
        >>> guide.shape, guide[0, 0, 0, 0].item()
        (torch.Size([1, 3, 3, 3]), 0.5)
    """
    if not parts:
        raise ValueError("parts: expected at least one pair (map, bandwidth), got none")
    sizes: dict[str, int] = {}
    scaled = []
    for i, (value, bandwidth) in enumerate(parts):
        wide = _measured(f"parts[{i}]", value)
        sizes.pop("C", None)
        checks.check_shape(f"parts[{i}]", value, ("B", "C", "H", "W"), sizes)
        checks.check_positive(f"bandwidth of parts[{i}]", bandwidth)
        scaled.append(wide / bandwidth)
    checks.check_flow_channels("guide", sum(value.shape[1] for value in scaled), "channels together")
    return torch.cat(scaled, dim=1)


def stacked_flows(flows: Tensor) -> Tensor:
    """Flow of the same pixels towards several frames as one guide.

    Pixels are compared by the root mean square, over the T frames, of their difference of flow, so that a bandwidth in
    pixels keeps its meaning whatever T is.

    Args:
        flows: [B, T, 2, H, W] in source-frame pixels, T in 1..4.

    Returns:
        [B, 2 T, H, W], each flow divided by sqrt(T), without gradient.

    Raises:
        TypeError, ValueError: not a floating tensor of five dimensions, or more than 8 channels together.

    Example:
        >>> stacked_flows(torch.ones(1, 4, 2, 3, 3))[0, :, 0, 0].tolist()
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    flows = _measured("flows", flows)
    checks.check_shape("flows", flows, ("B", "T", 2, "H", "W"), {})
    checks.check_flow_channels("guide", 2 * flows.shape[1], "channels together")
    return flows.flatten(1, 2) / flows.shape[1] ** 0.5


def crop_coordinates(boxes: Tensor, size: tuple[int, int], flipped: Tensor | None = None) -> Tensor:
    """Source coordinates of the cells of resized crops: where each embedding of a view lies in the frame.

    Args:
        boxes: [B, 4] crop boxes (left, top, right, bottom) in source pixels, edges: a whole frame is (0, 0, width, height).
        size: (h, w) of the embedding map.
        flipped: [B] bool, True where the view was mirrored left to right after the crop.

    Returns:
        [B, 2, h, w] (x, y) of the cell centres in source pixels, pixel centres at integers, in the dtype of ``boxes``.

    Raises:
        TypeError, ValueError: a type or shape that cannot be.

    Example:
        >>> crop_coordinates(torch.tensor([[0.0, 0.0, 4.0, 2.0]]), (1, 2))[0, 0].tolist()  # cells of 2 pixels
        [[0.5, 2.5]]
    """
    checks.check_dtype("boxes", boxes)
    checks.check_shape("boxes", boxes, ("B", 4), {})
    if flipped is not None:
        checks.check_dtype("flipped", flipped, "mask")
        checks.check_shape("flipped", flipped, ("B",), {"B": boxes.shape[0]})
    height, width = size
    x, y = ((torch.arange(n, device=boxes.device, dtype=boxes.dtype) + 0.5) / n for n in (width, height))
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    across = x.expand(boxes.shape[0], width)
    if flipped is not None:
        across = torch.where(flipped[:, None], 1 - across, across)
    across, down = left + across * (right - left) - 0.5, top + y * (bottom - top) - 0.5
    shape = (boxes.shape[0], height, width)
    return torch.stack([across[:, None, :].expand(shape), down[:, :, None].expand(shape)], dim=1)


def robust_flow_spread(flow: Tensor, mask: Tensor | None = None, floor: float = 0.25) -> Tensor:
    """How much a frame moves, from its flow: one number in pixels for a frame, or for each gap of stacked flows.

    With r_i, the distance of a flow from the median::

        spread = sqrt( mean of r_i^2 over the r_i up to their 98th percentile ),   r_i = |f_i - median f|

    The median of r_i would be 0 wherever more than half of the frame moves as one, which is usual in surgery (tissue with
    an instrument in front of it); the trimmed mean square sees the rest and leaves out two percent of wild vectors. Our
    choice; the paper's abstract does not say. Of more than 4096 pixels, a regular share is looked at; with a mask, of those
    that it keeps.

    Args:
        flow: [B, 2 G, H, W] in pixels, two channels for each of G gaps; or pixels in a row [B, N, F].
        mask: bool [B, H, W] or [B, N], True = keep. Masked pixels may hold anything, NaN included.
        floor: pixels; lower bound, so that the noise of a still frame is not taken for motion. Nothing kept gives it too.

    Returns:
        [B, G] for maps, [B] for pixels in a row; float32, float64 for float64 flow; without gradient.

    Raises:
        TypeError, ValueError: a type or shape that cannot be.

    Example:
        >>> robust_flow_spread(torch.zeros(2, 10, 2)).tolist()
        [0.25, 0.25]
        >>> robust_flow_spread(torch.randn(2, 4, 8, 8)).shape
        torch.Size([2, 2])
    """
    flow = _measured("flow", flow)
    is_map = flow.ndim == 4
    if flow.ndim not in (3, 4) or (is_map and flow.shape[1] % 2):
        raise ValueError(f"flow: expected [B, 2 G, H, W] or [B, N, F], got shape {list(flow.shape)}")
    pixels = tuple(flow.shape[2:]) if is_map else (flow.shape[1],)
    if mask is not None:
        checks.check_dtype("mask", mask, "mask")
        checks.check_shape("mask", mask, (flow.shape[0], *pixels), {})
    flow = flow.unflatten(1, (-1, 2)).flatten(3) if is_map else flow.transpose(1, 2)[:, None]  # [B, G, 2, pixels]
    if mask is not None:
        flow = _share_of_kept(flow, mask.flatten(1))
    elif is_map and flow.shape[-1] > MAX_PIXELS:
        step = int((flow.shape[-1] / MAX_PIXELS) ** 0.5)
        flow = flow.unflatten(3, pixels)[..., ::step, ::step].flatten(3)
    else:
        flow = flow[..., :: max(1, flow.shape[-1] // MAX_PIXELS)]
    if flow.shape[-1] == 0:
        spread = flow.new_zeros(flow.shape[:2])
    else:
        distance = (flow - flow.nanmedian(3, keepdim=True).values).square().sum(2)
        # not nanquantile: torch 2.11 cannot trace it where the number of frames is left open
        last = ((~distance.isnan()).sum(2, keepdim=True) - 1).clamp(min=0) * TRIM_PERCENT // 100
        limit = distance.sort(2).values.gather(2, last)  # NaN comes last
        spread = distance.masked_fill(distance > limit, torch.nan).nanmean(2).sqrt().nan_to_num(0.0)
    spread = spread.clamp(min=floor)
    return spread if is_map else spread[:, 0]


def _share_of_kept(flow: Tensor, mask: Tensor) -> Tensor:
    """Up to MAX_PIXELS kept pixels of each frame, evenly through them, then NaN: [B, G, F, P] and [B, P] -> [B, G, F, S]."""
    up_to = mask.cumsum(1)
    kept = up_to[:, -1:]
    most = min(mask.shape[1], MAX_PIXELS)
    number = torch.arange(most, device=mask.device)
    number = torch.where(kept > most, number * kept // most, number)
    place = torch.searchsorted(up_to, number + 1).clamp(max=mask.shape[1] - 1)
    chosen = flow.gather(3, place[:, None, None].expand(*flow.shape[:3], most))
    return chosen.masked_fill((number >= kept)[:, None, None], torch.nan)


def _measured(name: str, value: Tensor) -> Tensor:
    """A floating tensor, checked, in float32 or float64 and without gradient."""
    checks.check_dtype(name, value)
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))
