"""How much a frame moves: one number in pixels, from its flow.

    spread_b = sqrt( mean_i r_i^2 over the r_i up to their 98th percentile ),   r_i = |f_i - median f|

The median absolute deviation would be 0 wherever more than half of the frame moves as one, which is the usual
case in surgery (tissue with a small organ or an instrument in front of it); the trimmed mean square still sees
the rest and is deaf to the few percent of wild flow vectors.  Our choice; the paper's abstract is silent.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRIM = 0.98
MAX_PIXELS = 4096


def frame_spread(flow: Tensor, valid: Tensor) -> Tensor:
    """Spread of the flow of each frame, of each gap where flows over several gaps are stacked.

    Args:
        flow: [B, 2 G, H, W] in pixels, two channels a gap.
        valid: bool [B, H, W], True = trusted.

    Returns:
        float32 [B, G] in pixels; 0 for a frame with nothing trusted.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if flow.ndim != 4 or flow.shape[1] % 2 or valid.shape != flow[:, 0].shape:
        raise ValueError(
            f"flow, valid: expected [B, 2 G, H, W] and [B, H, W], got {tuple(flow.shape)} and {tuple(valid.shape)}"
        )
    height, width = flow.shape[-2:]
    step = max(1, int((height * width / MAX_PIXELS) ** 0.5))
    vectors = flow[..., ::step, ::step].float().unflatten(1, (-1, 2)).flatten(3)
    keep = valid[..., ::step, ::step].flatten(1)[:, None, None]
    vectors = torch.where(keep, vectors, torch.nan)
    centre = vectors.nanmedian(dim=3, keepdim=True).values
    distance = (vectors - centre).square().sum(2)
    limit = distance.nanquantile(TRIM, dim=2, keepdim=True)
    trimmed = torch.where(distance <= limit, distance, torch.nan)
    return trimmed.nanmean(dim=2).sqrt().nan_to_num(0.0)


def over_spread(flow: Tensor, spread: Tensor, least: float) -> Tensor:
    """Flow [B, 2 G, h, w] with each gap in units of its own spread [B, G], at least ``least`` pixels.

    The whole is divided by sqrt(G), so that the distance of two pixels is the root mean square over the gaps and a
    bandwidth means the same for any number of gaps.
    """
    gaps = spread.shape[1]
    scale = spread.float().clamp(min=least).repeat_interleave(2, dim=1) * gaps**0.5
    return flow.float() / scale[:, :, None, None]
