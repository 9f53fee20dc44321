"""Guides: what the pair weights compare, when that is not plain flow alone.

    w_ij = phi(|u_i - u_j|),   u = [a / sigma_a, b / sigma_b, ...]

A guide is any map with 1 to 8 channels that goes in the place of the flow. Each part is divided by its own bandwidth, so
that the joined guide goes with ``bandwidth=1``; with the gaussian flow kernel the weights of the parts then multiply.

    flow and place     join_guides((flow, 1.5), (crop_coordinates(boxes, size), 40.0))
    place alone        join_guides((crop_coordinates(boxes, size), 0.7 * cell))       top-hat: the rule of PixContrast
    several frames     stacked_flows(flows)                                           bandwidth stays in pixels
    depth, or any map  join_guides((flow, 1.5), (depth, 0.1))
"""

from __future__ import annotations

import torch
from torch import Tensor

from laparoflow_kernels import checks
from laparoflow_kernels.problem import MAX_FLOW_CHANNELS


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
        checks.check_tensor(f"parts[{i}]", value)
        checks.check_float(f"parts[{i}]", value)
        sizes.pop("C", None)
        checks.check_shape(f"parts[{i}]", value, ("B", "C", "H", "W"), sizes)
        checks.check_positive(f"bandwidth of parts[{i}]", bandwidth)
        scaled.append(value.detach().to(torch.promote_types(value.dtype, torch.float32)) / bandwidth)
    return _limited(torch.cat(scaled, dim=1))


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
    checks.check_tensor("flows", flows)
    checks.check_float("flows", flows)
    checks.check_shape("flows", flows, ("B", "T", 2, "H", "W"), {})
    flows = flows.detach().to(torch.promote_types(flows.dtype, torch.float32))
    return _limited(flows.flatten(1, 2) / max(flows.shape[1], 1) ** 0.5)


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
    checks.check_tensor("boxes", boxes)
    checks.check_float("boxes", boxes)
    checks.check_shape("boxes", boxes, ("B", 4), {})
    if flipped is not None:
        checks.check_pixels("flipped", "mask", flipped, ("B",), {"B": boxes.shape[0]})
    height, width = size
    x, y = ((torch.arange(n, device=boxes.device, dtype=boxes.dtype) + 0.5) / n for n in (width, height))
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    across = x.expand(boxes.shape[0], width)
    if flipped is not None:
        across = torch.where(flipped[:, None], 1 - across, across)
    across, down = left + across * (right - left) - 0.5, top + y * (bottom - top) - 0.5
    shape = (boxes.shape[0], height, width)
    return torch.stack([across[:, None, :].expand(shape), down[:, :, None].expand(shape)], dim=1)


def _limited(guide: Tensor) -> Tensor:
    if not 1 <= guide.shape[1] <= MAX_FLOW_CHANNELS:
        raise ValueError(f"guide: expected 1 to {MAX_FLOW_CHANNELS} channels together, got {guide.shape[1]}")
    return guide
