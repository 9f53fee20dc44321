"""The network that is pretrained and probed: backbone, up-sampling, projection.

images RGB 0..1 [B, 3, H, W] --normalise--> backbone --features--> [B, C, H/p, W/p]
                                               '--pixel head--> embeddings [B, D, H/s, W/s]
"""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Self

from laparoflow.models.backbone import TokenBackbone
from laparoflow.models.pixel_head import PixelHead
from laparoflow.training.settings import EncoderSettings

Level = Literal["stem", "last", "both"]
"""Where frozen features come from: the patch embedding, the last blocks, or the two joined in this order."""


class PixelEncoder(nn.Module):
    """Dense embeddings for training, frozen features for probes.

    Attributes:
        settings: the settings it was built from.
        level: where :meth:`features` come from; "last" unless :meth:`at` chose another.
        feature_dim: channels of :meth:`features`.
        feature_stride: stride of :meth:`features` in pixels.
        embed_dim: channels of :meth:`forward`.
        embed_stride: stride of :meth:`forward` in pixels.
        image_mean, image_std: [1, 3, 1, 1], applied inside; callers pass RGB in 0..1.
    """

    level: Level = "last"
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = TokenBackbone(
            settings.backbone, settings.image_size, settings.weights, settings.feature_blocks, **settings.backbone_options
        )
        self.feature_dim = self.backbone.feature_dim
        self.feature_stride = self.backbone.stride
        self.embed_dim = settings.dim
        self.embed_stride = settings.embed_stride or self.feature_stride
        projection = settings.dim, settings.hidden, settings.projection_layers
        self.head = PixelHead(self.backbone.token_dim, self.feature_stride, self.embed_stride, *projection)
        mean, std = self.backbone.pixel_statistics
        for name, own, given in (("image_mean", mean, settings.image_mean), ("image_std", std, settings.image_std)):
            values = list(own if given is None else given)
            if len(values) != 3 or (name == "image_std" and min(values) <= 0):
                raise ValueError(f"encoder.{name}: expected three numbers (above 0 for the deviation), got {values}")
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        if settings.weights is not None and settings.image_mean is None and settings.image_std is None:
            self.backbone.warn_of_statistics(settings.weights)

    def check_images(self, images: Tensor) -> None:
        """Raise ValueError unless ``images`` is float [B, 3, H, W] with H and W multiples of the stride."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images: expected float [B, 3, H, W] RGB in 0..1, got {images.dtype} {tuple(images.shape)}")
        height, width = images.shape[-2:]
        if height % self.feature_stride or width % self.feature_stride or not height or not width:
            raise ValueError(
                f"images: height and width must be multiples of the backbone's stride {self.feature_stride}, "
                f"got {height}x{width}"
            )

    def normalise(self, images: Tensor) -> Tensor:
        """RGB 0..1 -> what the backbone expects, [B, 3, H, W]."""
        return (images - self.image_mean) / self.image_std

    def features(self, images: Tensor) -> Tensor:
        """Features for probes: float RGB 0..1 [B, 3, H, W] -> [B, C, H/p, W/p]."""
        if self.level != "last":
            return self.levels(images)[self.level]
        self.check_images(images)
        return self.backbone.features(self.normalise(images))

    def levels(self, images: Tensor) -> dict[Level, Tensor]:
        """Features of every level from one pass: RGB 0..1 [B, 3, H, W] -> [B, C of the level, H/p, W/p] each."""
        self.check_images(images)
        found: list[Tensor] = []
        hook = self.backbone.model.patch_embed.register_forward_hook(lambda _module, _inputs, output: found.append(output))
        try:
            last = self.backbone.features(self.normalise(images))
        finally:
            hook.remove()
        tokens = found[0].flatten(1, 2) if found[0].ndim == 4 else found[0]  # timm's dynamic sizes give [B, h, w, C]
        stem = tokens.transpose(1, 2).unflatten(2, last.shape[2:])
        return {"stem": stem, "last": last, "both": torch.cat([stem, last], 1)}

    def at(self, level: Level) -> Self:
        """The same network, weights shared, whose :meth:`features` come from this level."""
        if level not in get_args(Level):
            raise ValueError(f"level: expected one of {', '.join(get_args(Level))}, got {level!r}")
        chosen = copy.copy(self)
        chosen.level = level
        last, stem = self.backbone.feature_dim, self.backbone.token_dim
        chosen.feature_dim = {"stem": stem, "last": last, "both": stem + last}[level]
        return chosen

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens after the last block: [B, 3, H, W] RGB 0..1 -> [B, C, H/p, W/p]."""
        self.check_images(images)
        return self.backbone(self.normalise(images))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings for the loss, not normalised: float RGB 0..1 [B, 3, H, W] -> [B, D, H/s, W/s]."""
        return self.head(self.tokens(images))

    def features_and_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`features` and :meth:`forward` give, from one pass of the backbone."""
        levels = self.levels(images)
        return levels[self.level], self.head(levels["last"][:, -self.backbone.token_dim :])


def build_encoder(settings: EncoderSettings, seed: int | None = None) -> PixelEncoder:
    """A freshly initialised network; with ``seed`` the same weights every time, the caller's RNG untouched."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return PixelEncoder(settings)
