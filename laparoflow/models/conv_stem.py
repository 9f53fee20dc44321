"""Vision transformers behind a small convolutional stem, registered with timm by the import of this module.

A linear patch embedding of stride 4 or 8 learns very little in minutes; three strided convolutions do. The stem takes the
place of timm's patch embedding (``embed_layer``), so everything timm offers for its ``VisionTransformer`` works unchanged::

    image [B, 3, H, W] -> (conv, GroupNorm, GELU) x 3 -> 1x1 conv -> tokens [B, H/s * W/s, C]

A convolution is 4x4 where it has stride 2 and 3x3 where it has none: so the middle of what a token sees is the middle of its
cell, (c + 1/2) s - 1/2, as with a linear patch embedding. Strided 3x3 convolutions look at the corner of the cell, half a
cell away, and in a mirrored view at the opposite one.

``WindowStem`` puts a 7x7 depthwise convolution before the last one. It starts as the identity in one half of the
channels and as the mean over its window in the other: tissue is told from tissue by the statistics of its texture,
which a single cell is too small to hold and which attention takes long to learn to average. It raises an untrained
network as much as a trained one (docs/RESULTS.md).

Group norm, not batch norm: an untrained stem is then a fair control (batch norm before it has seen
data costs it much of its score), several processes equal one, and train and eval mode agree.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import PatchEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

MIN_LAYERS = 3
GROUP = 8
WINDOW = 7
"""Side of the depthwise convolution in cells."""


def stem_strides(stride: int) -> tuple[int, ...]:
    """At least three strides, the twos first, whose product is a power of two: 4 gives (2, 2, 1), 16 gives (2, 2, 2, 2)."""
    if stride < 1 or stride & (stride - 1):
        raise ValueError(f"stride: expected a power of two, got {stride}")
    twos = int(math.log2(stride))
    return (2,) * twos + (1,) * max(0, MIN_LAYERS - twos)


def window_means(channels: int, device: Any = None, dtype: Any = None) -> nn.Conv2d:
    """A depthwise convolution [B, C, h, w] -> [B, C, h, w]: at first identity in even channels, window mean in odd."""
    layer = nn.Conv2d(
        channels, channels, WINDOW, padding=WINDOW // 2, groups=channels, padding_mode="replicate", device=device,
        dtype=dtype,
    )  # fmt: skip
    with torch.no_grad():
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(layer.weight)
        layer.weight[::2, :, WINDOW // 2, WINDOW // 2] = 1.0
        layer.weight[1::2] = 1.0 / WINDOW**2
    return layer


class ConvStem(PatchEmbed):
    """Convolutional stem with the interface and the arguments of ``timm.layers.PatchEmbed``.

    ``patch_size`` is the stride of the stem, a power of two; ``bias`` is that of the last 1x1 convolution.

    Shape:
        [B, in_chans, H, W] -> as PatchEmbed: [B, H/s * W/s, embed_dim], or NHWC with ``output_fmt="NHWC"``.
    """

    window = False

    def __init__(
        self, img_size: int | tuple[int, int] | None = 64, patch_size: int | tuple[int, int] = 4, in_chans: int = 3,
        embed_dim: int = 96, bias: bool = True, **kwargs: Any,
    ) -> None:  # fmt: skip
        stride = patch_size if isinstance(patch_size, int) else patch_size[0]
        super().__init__(img_size, stride, in_chans, embed_dim, bias=bias, **kwargs)
        device, dtype = self.proj.weight.device, self.proj.weight.dtype
        strides = stem_strides(stride)
        layers: list[nn.Module] = []
        width = in_chans
        for remaining, step in zip(reversed(range(len(strides))), strides, strict=True):
            out = max(2 * GROUP, embed_dim // 2**remaining // GROUP * GROUP)
            layers += [
                nn.Conv2d(width, out, 2 + step, stride=step, padding=1, bias=False, device=device, dtype=dtype),
                nn.GroupNorm(max(1, out // GROUP), out, device=device, dtype=dtype),
                nn.GELU(),
            ]
            width = out
        if self.window:
            layers.append(window_means(width, device, dtype))
        layers.append(nn.Conv2d(width, embed_dim, 1, bias=bias, device=device, dtype=dtype))
        self.proj = nn.Sequential(*layers)  # type: ignore[assignment]

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """Change the image size; a ValueError for a patch size other than the stem's stride, which is fixed."""
        if patch_size is not None and tuple(torch.as_tensor(patch_size).expand(2).tolist()) != self.patch_size:
            raise ValueError(f"patch_size: a convolutional stem keeps its stride {self.patch_size}, got {patch_size}")
        super().set_input_size(img_size=img_size)


class WindowStem(ConvStem):
    """A ``ConvStem`` whose cells start with themselves and the mean of the cells around them."""

    window = True


def _cfg(size: int) -> dict[str, Any]:
    return dict(
        url="", num_classes=0, input_size=(3, size, size), pool_size=None, crop_pct=1.0, interpolation="bicubic",
        fixed_input_size=True, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, first_conv="patch_embed.proj.0",
        classifier="head", license="apache-2.0",
    )  # fmt: skip


MINI: dict[str, Any] = dict(img_size=64, patch_size=4, embed_dim=96, depth=2, num_heads=3)
SMALL: dict[str, Any] = dict(img_size=224, patch_size=16, embed_dim=384, depth=12, num_heads=6)
MODELS = {
    "laparoflow_convvit_mini": (ConvStem, MINI),  # learns in minutes on one core
    "laparoflow_convvit_mini_window": (WindowStem, MINI),
    "laparoflow_convvit_small": (ConvStem, SMALL),  # a ViT-S with a convolutional stem, for one GPU
}
default_cfgs = generate_default_cfgs({name: _cfg(shape["img_size"]) for name, (_, shape) in MODELS.items()})


def _register(variant: str, stem: type[ConvStem], shape: dict[str, Any]) -> None:
    """Make a model known to timm by its name."""

    def build(pretrained: bool = False, **given: Any) -> VisionTransformer:
        args: dict[str, Any] = dict(class_token=False, global_pool="avg", fc_norm=False, num_classes=0, embed_layer=stem)
        return build_model_with_cfg(
            VisionTransformer, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": 3, "feature_cls": "getter"}, **(args | shape | given),
        )  # fmt: skip

    build.__name__ = variant
    register_model(build)


for _name, _parts in MODELS.items():
    _register(_name, *_parts)
