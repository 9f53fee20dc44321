"""Photometric transforms: colour jitter, blur and grey, drawn per frame and applied to the whole batch at once.

The formulas are those of torchvision's v2 ``adjust_brightness``, ``adjust_contrast``, ``adjust_saturation``,
``adjust_hue``, ``rgb_to_grayscale`` and ``gaussian_blur`` (with the kernel size fixed by the largest sigma),
which take one factor for a batch; here each frame has its own. The tests hold them to torchvision's results.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as v2

from laparoflow.views.settings import PhotometricSettings


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1.0 - factor) * other).clamp(0.0, 1.0)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of float images [B, 3, H, W] in 0..1 by ``shift`` [B, 1, 1] turns of the colour circle."""
    red, green, blue = images.unbind(1)
    top, bottom = images.amax(1), images.amin(1)
    spread = top - bottom
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    hue = torch.where(
        top == red, (green - blue) / safe, torch.where(top == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe)
    )
    sector = torch.remainder(hue + 6.0 * shift, 6.0)
    offsets = torch.tensor([5.0, 3.0, 1.0], dtype=images.dtype, device=images.device)[None, :, None, None]
    position = torch.remainder(sector[:, None] + offsets, 6.0)
    return top[:, None] - spread[:, None] * torch.minimum(position, 4.0 - position).clamp(0.0, 1.0)


def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur of float images [B, C, H, W], each with its own ``sigma`` [B] in pixels; reflected edges."""
    batch, channels, height, width = images.shape
    radius = min(radius, height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    stacked = functional.pad(images, [radius] * 4, mode="reflect").reshape(1, batch * channels, height + 2 * radius, -1)
    stacked = functional.conv2d(stacked, kernel[:, None, :, None], groups=batch * channels)
    stacked = functional.conv2d(stacked, kernel[:, None, None, :], groups=batch * channels)
    return stacked.reshape(images.shape)


def photometric(images: Tensor, settings: PhotometricSettings, generator: torch.Generator | None = None) -> Tensor:
    """Images float [B, 3, H, W], RGB in 0..1, on any device, transformed by factors that are drawn for every frame.

    The same state of the CPU generator gives the same factors on every device.
    """
    batch = len(images)

    def uniform(low: float, high: float) -> Tensor:
        value = low + (high - low) * torch.rand(batch, generator=generator, dtype=torch.float64)
        return value.to(images).reshape(batch, 1, 1, 1)

    def chosen(probability: float) -> Tensor:
        return uniform(0.0, 1.0) < probability

    jitter = chosen(settings.jitter)
    strengths = settings.brightness, settings.contrast, settings.saturation
    brightness, contrast, saturation = (uniform(1 - strength, 1 + strength) for strength in strengths)
    hue = uniform(-settings.hue, settings.hue)
    grey, blurred = chosen(settings.grey), chosen(settings.blur)
    sigma = uniform(*settings.blur_sigma)

    result = images
    if settings.jitter > 0:
        changed = _blend(result, torch.zeros_like(images), brightness)
        changed = _blend(changed, v2.rgb_to_grayscale(changed).mean(dim=(1, 2, 3), keepdim=True), contrast)
        changed = _blend(changed, v2.rgb_to_grayscale(changed), saturation)
        changed = adjust_hue(changed, hue.reshape(batch, 1, 1))
        result = torch.where(jitter, changed, result)
    if settings.grey > 0:
        result = torch.where(grey, v2.rgb_to_grayscale(result, num_output_channels=3), result)
    if settings.blur > 0:
        radius = max(1, round(3 * settings.blur_sigma[1]))
        result = torch.where(blurred, blur(result, sigma.reshape(batch), radius), result)
    return result
