"""PixPro: a pixel, smoothed by its like in the same view, is to equal its neighbours in the other view.

    y_i = sum_j max(cos(x_i, x_j), 0)^sharpness g(x_j)           pixel propagation within a view, g a linear map
    loss = - mean over pairs (i, j) closer than ``bandwidth`` of cos(y_i, k_j)

``k`` comes from a momentum teacher; places and distances are those of ``coordinates.py``.  There are no
negatives.  Source: Xie et al., Propagate Yourself, CVPR 2021, rebuilt from its formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from laparoflow.methods.base import Method, MethodOutput, NearView, PixelView, mean_output, place_guides
from laparoflow.methods.gather import joint_mean
from laparoflow.methods.settings import PixProSettings
from laparoflow.models.encoder import PixelEncoder
from laparoflow_kernels import flow_weighted_sum


class PixelPropagation(nn.Module):
    """Smooths a map by its own similarities: [B, D, h, w] -> [B, D, h, w]."""

    def __init__(self, dim: int, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.transform = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        unit = F.normalize(x.flatten(2), dim=1)
        similarity = (unit.transpose(1, 2) @ unit).clamp(min=0) ** self.sharpness
        return (self.transform(x).flatten(2) @ similarity).reshape(x.shape)


class PixProMethod(Method):
    """See the module."""

    def __init__(self, encoder: PixelEncoder, settings: PixProSettings) -> None:
        super().__init__(encoder, settings.momentum)
        self.settings = settings
        self.propagation = PixelPropagation(encoder.embed_dim, settings.sharpness)

    def forward(self, first: PixelView, second: PixelView, near: NearView | None = None) -> MethodOutput:
        """Loss of two views, each once the smoothed one."""
        guides = place_guides(first.grid, second.grid)
        one = self._direction(first, second, guides[0], guides[1])
        two = self._direction(second, first, guides[1], guides[0])
        return mean_output(one, two)

    def _direction(self, query: PixelView, key: PixelView, here: Tensor, there: Tensor) -> MethodOutput:
        smooth = F.normalize(self.propagation(self.encoder(query.image)).float().flatten(2), dim=1).transpose(1, 2)
        target = F.normalize(self.teach(key.image).float().flatten(2), dim=1).transpose(1, 2)
        sums = flow_weighted_sum(
            here.flatten(2).transpose(1, 2),
            there.flatten(2).transpose(1, 2),
            torch.cat([target, torch.ones_like(target[..., :1])], dim=-1),
            bandwidth=self.settings.bandwidth,
            flow_kernel="tophat",
            key_mask=key.inside.flatten(1),
        )
        assert isinstance(sums, Tensor)
        kept = query.inside.flatten(1).float()
        agreement = ((smooth * sums[..., :-1]).sum(-1) * kept).sum(1)
        pairs = (sums[..., -1] * kept).sum(1)
        has_pairs = pairs > 0
        per_frame = torch.where(has_pairs, -agreement / pairs.clamp(min=1), torch.zeros_like(agreement))
        loss = joint_mean(per_frame.sum(), has_pairs.sum())
        valid = ((sums[..., -1] > 0) & (kept > 0)).float().mean()
        return MethodOutput(loss, {"valid": valid})
