"""Flow-weighted pixel contrast: pixels that move together get similar vectors.

    w_ij = phi(|f_i - g_j| / bandwidth),   f and g the source-frame flow of two pixels of one frame

The weights may be taken on the flow in pixels, or on the flow over the frame's robust spread, so that one bandwidth serves
frames of little and of much motion.  Flows over several gaps are stacked, two channels a gap, each over its own spread.  The
spread is never taken below ``min_spread``: in a nearly still frame the flow is mostly noise, and dividing by a tiny spread
would blow that up.  Frames whose spread is under ``min_motion`` say nothing and are left out of the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laparoflow.methods.base import MethodOutput, NearView, PixelView
from laparoflow.methods.contrast_method import ContrastMethod
from laparoflow.methods.settings import FlowSettings
from laparoflow.models.encoder import PixelEncoder


class FlowMethod(ContrastMethod):
    """See the module."""

    def __init__(self, encoder: PixelEncoder, settings: FlowSettings) -> None:
        super().__init__(encoder, settings)
        self.settings = settings
        self.shuffle_flow = settings.guide == "shuffled"

    def guide(self, view: PixelView) -> Tensor:
        """What the weights compare, [B, F, h, w], in bandwidth units of the settings."""
        settings = self.settings
        flow = view.flow.float()
        if settings.guide == "uniform":
            return torch.zeros_like(flow)
        if settings.flow_normalisation == "spread":
            flow = over_spread(flow, view.spread, settings.min_spread)
        if settings.guide == "flow_and_place":
            side = float(max(view.extent))
            place = view.grid.float().movedim(-1, 1) * (settings.bandwidth / (settings.place_width * side))
            return torch.cat([flow, place], dim=1)
        return flow

    def mask(self, view: PixelView) -> Tensor:
        """Pixels that count, bool [B, h, w]."""
        moving = view.spread.amax(1) >= self.settings.min_motion
        return view.valid & moving.view(-1, 1, 1)

    def forward(self, first: PixelView, second: PixelView, near: NearView | None = None) -> MethodOutput:
        """Loss of two views, and of the places that the flow leads to in neighbours; the controls know the place alone."""
        guides, masks = [self.guide(v) for v in (first, second)], [self.mask(v) for v in (first, second)]
        told = self.settings.guide in ("flow", "flow_and_place")
        here = (near.moved, near.trusted) if near is not None and told else None
        output = self.contrast_views(first, second, guides, masks, near, here)
        output.logs["motion"] = first.spread.float().mean()
        return output


def over_spread(flow: Tensor, spread: Tensor, least: float) -> Tensor:
    """Flow [B, 2 G, h, w] with each gap in units of its own spread [B, G], at least ``least`` pixels.

    The whole is divided by sqrt(G), so that the distance of two pixels is the root mean square over the gaps and a
    bandwidth means the same for any number of gaps.
    """
    gaps = spread.shape[1]
    scale = spread.float().clamp(min=least).repeat_interleave(2, dim=1) * gaps**0.5
    return flow.float() / scale[:, :, None, None]
