"""From patch tokens to dense embeddings: learnable up-sampling, then a per-pixel projection.

    tokens [B, C, h, w] --(up-sampling x2) x log2(p/s)--> [B, C', p/s h, p/s w] --(1x1 MLP)--> [B, D, ., .]

``p`` is the stride of the tokens, ``s`` the stride of the embeddings.  One up-sampling step is a 1x1
convolution to four times the channels and a pixel shuffle, started as nearest-neighbour repetition, so that
an untrained head neither blurs nor paints a checkerboard.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn


def channel_norm(channels: int) -> nn.Sequential:
    """Layer norm over the channels of a map [B, C, H, W], its weights under ``norm`` as checkpoints have them."""
    return nn.Sequential(OrderedDict(norm=LayerNorm2d(channels, eps=1e-5)))


class UpsampleTwice(nn.Sequential):
    """[B, C, h, w] -> [B, C', 2h, 2w], learnable."""

    def __init__(self, channels: int, out_channels: int) -> None:
        expand = nn.Conv2d(channels, 4 * out_channels, 1)
        with torch.no_grad():
            nn.init.xavier_uniform_(expand.weight[::4])
            expand.weight.copy_(expand.weight[::4].repeat_interleave(4, 0))
            nn.init.zeros_(expand.bias)  # type: ignore[arg-type]
        super().__init__(expand, nn.PixelShuffle(2), channel_norm(out_channels), nn.GELU())


class Projection(nn.Sequential):
    """Per-pixel MLP [B, C, H, W] -> [B, D, H, W]; ``layers=1`` is a single linear map, 0 is none."""

    def __init__(self, channels: int, hidden: int, dim: int, layers: int) -> None:
        parts: list[nn.Module] = []
        width = channels
        for _ in range(layers - 1):
            parts += [nn.Conv2d(width, hidden, 1), channel_norm(hidden), nn.GELU()]
            width = hidden
        if layers > 0:
            parts.append(nn.Conv2d(width, dim, 1))
        super().__init__(*parts)


class PixelHead(nn.Module):
    """Up-sampling from the tokens' stride to the embeddings', and a projection of so many layers to ``dim`` channels."""

    def __init__(self, channels: int, token_stride: int, embed_stride: int, dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        ratio, rest = divmod(token_stride, embed_stride) if embed_stride > 0 else (0, 1)
        if rest or ratio < 1 or ratio & (ratio - 1):
            raise ValueError(
                f"embed_stride: expected the backbone's stride {token_stride} divided by a power of two, got {embed_stride}"
            )
        ups: list[nn.Module] = []
        width = channels
        for _ in range(ratio.bit_length() - 1):
            ups.append(UpsampleTwice(width, max(dim, width // 2)))
            width = max(dim, width // 2)
        if layers < 0 or (layers == 0 and width != dim):
            raise ValueError(
                f"projection_layers: expected at least 1 (0 only when the {width} channels equal dim), got {layers}"
            )
        self.upsample = nn.Sequential(*ups)
        self.projection = Projection(width, hidden, dim, layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, D, h * p/s, w * p/s], not normalised."""
        return self.projection(self.upsample(tokens))
