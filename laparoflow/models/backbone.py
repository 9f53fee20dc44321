"""A timm vision transformer as a map of patch tokens, with weights from a local file when one is named."""

from __future__ import annotations

import logging
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import laparoflow.models.conv_stem  # noqa: F401  (registers the convolutional-stem models with timm)
from laparoflow.models.weights import load_backbone_weights

SHOWN = 4
logger = logging.getLogger(__name__)


class TokenBackbone(nn.Module):
    """Patch tokens of a timm ViT as a map; the arguments are those of ``EncoderSettings``, ``options`` timm's."""

    def __init__(self, name: str, image_size: int, weights: Path | None = None, blocks: int = 1, **options: Any) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = get_close_matches(name.split(".")[0], timm.list_models(), 5, 0.4)
            raise ValueError(f"encoder.backbone: {name!r} is not a model of timm {timm.__version__}; near it: {near}")
        try:
            model = timm.create_model(
                name, pretrained=False, num_classes=0, img_size=image_size, dynamic_img_size=True, **options
            )
        except TypeError as error:
            raise ValueError(f"encoder.backbone: {name!r} does not take these options: {error}") from error
        if not isinstance(model, (VisionTransformer, Eva)):
            raise ValueError(f"encoder.backbone: expected a vision transformer, {name!r} is {type(model).__name__}")
        if not 1 <= blocks <= len(model.blocks):
            raise ValueError(f"encoder.feature_blocks: expected 1 to {len(model.blocks)}, got {blocks}")
        self.model = model
        self.name = name
        self.blocks = blocks
        self.stride: int = model.patch_embed.feat_ratio()  # type: ignore[assignment]  # of a hybrid with its convolutions
        self.token_dim: int = model.num_features
        self.feature_dim = self.token_dim * blocks
        if weights is not None:
            load_backbone_weights(model, Path(weights))

    @property
    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of RGB (0..1) that the model's configuration names."""
        config: dict[str, Any] = self.model.pretrained_cfg  # type: ignore[assignment]
        return tuple(config["mean"]), tuple(config["std"])

    def warn_of_statistics(self, weights: Path) -> None:
        """Name published weights of this architecture that want another mean or deviation than the ones it will run with.

        Nothing is said where the name says which weights are meant, as ``vit_small_patch16_224.dino`` does.
        """
        mean, std = self.pixel_statistics
        configs = {name: get_pretrained_cfg(name) for name in timm.list_pretrained(f"{self.name}.*") if "." not in self.name}
        means = {name: (tuple(config.mean), tuple(config.std)) for name, config in configs.items() if config is not None}
        others = [f"{name} (mean {wanted[0]})" for name, wanted in means.items() if wanted != (mean, std)]
        if others:
            known = ", ".join(others[:SHOWN]) + ", ..." * (len(others) > SHOWN)
            logger.warning(
                f"weights: {weights} runs with mean {mean} and deviation {std}, the default of {self.name}; "
                f"if it holds one of these, give its name as backbone, or set image_mean and image_std: {known}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Tokens after the last norm: [B, 3, H, W] normalised -> [B, C, H/p, W/p]."""
        patches = self.model.forward_features(images)[:, self.model.num_prefix_tokens :]
        height, width = images.shape[-2] // self.stride, images.shape[-1] // self.stride
        return patches.transpose(1, 2).reshape(images.shape[0], self.token_dim, height, width)

    def features(self, images: Tensor) -> Tensor:
        """Tokens of the last ``blocks`` blocks, each normalised, joined: [B, 3, H, W] -> [B, C * blocks, h, w]."""
        if self.blocks == 1:
            return self(images)
        maps = self.model.forward_intermediates(
            images, indices=self.blocks, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return torch.cat(list(maps), dim=1)  # type: ignore[arg-type]  # intermediates_only gives the maps
