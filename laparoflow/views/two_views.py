"""Two views of each frame of a batch, reproducible from the state of a generator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from laparoflow.views.geometry import draw_transform
from laparoflow.views.photometric import photometric
from laparoflow.views.sampling import sample_image, sample_mask
from laparoflow.views.settings import ViewSettings

SHRINK_SLACK = 1.2  # a view that shrinks its source by 2 / 1.2 or more reads it halved


class View(NamedTuple):
    """One view of a batch of frames.

    Attributes:
        image: float [B, 3, h, w], RGB in 0..1.
        grid: float32 [B, h, w, 2], (x, y) in source pixels of every view pixel.
        inside: bool [B, h, w], True where the view pixel comes from a valid pixel inside the frame.
    """

    image: Tensor
    grid: Tensor
    inside: Tensor


class TwoViews:
    """Draws two independent views of every frame of a batch, on the device of the images.

    Example:
        >>> views = TwoViews(ViewSettings(size=(32, 32)))
        >>> first, second = views(torch.rand(2, 3, 48, 64), torch.ones(2, 48, 64, dtype=torch.bool))
        >>> first.grid.shape
        torch.Size([2, 32, 32, 2])
    """

    def __init__(self, settings: ViewSettings | None = None) -> None:
        self.settings = settings or ViewSettings()

    def __call__(self, images: Tensor, valid: Tensor, generator: torch.Generator | None = None) -> tuple[View, View]:
        """Two views of images float [B, 3, H, W], RGB in 0..1, where ``valid`` [B, H, W] is True for what is kept.

        The same state of the CPU generator gives the same views.
        """
        return self.one(images, valid, generator), self.one(images, valid, generator)

    def one(self, images: Tensor, valid: Tensor, generator: torch.Generator | None = None) -> View:
        """Make one view; arguments and errors as for two."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [B, 3, H, W], got shape {list(images.shape)}")
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point in 0..1, got {images.dtype}")
        if valid.shape != (images.shape[0], *images.shape[2:]):
            raise ValueError(f"valid must be [B, H, W] as images {list(images.shape)}, got {list(valid.shape)}")
        height, width = images.shape[-2:]
        transform = draw_transform(self.settings.geometry, len(images), (height, width), self.settings.size, generator)
        device = images.device if images.device.type == "cuda" else torch.device("cpu")  # others may lack float64
        grid = transform.to(device).grid(*self.settings.size).float().to(images.device)
        halvings = torch.log2(transform.scale(*self.settings.size) * SHRINK_SLACK).floor().clamp(min=0).long()
        image = photometric(sample_image(images, grid, halvings), self.settings.photometric, generator)
        return View(image, grid, sample_mask(valid, grid))
