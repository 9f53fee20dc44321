"""Band-limited noise textures with a stated wavelength, anisotropy and orientation.

A texture is white noise filtered in the Fourier domain by a ring exp(-(|k| * wavelength - 1)^2 / (2 * spread^2)), where |k|
is measured after squeezing one axis by the anisotropy. It is periodic, has mean 0 and standard deviation 1.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def band_noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    wavelength: float,
    anisotropy: float = 1.0,
    angle: float = 0.0,
    spread: float = 0.45,
) -> Array:
    """Periodic noise float32 [height, width] with energy around one wavelength, mean 0 and standard deviation 1.

    ``wavelength`` is pixels per period across the texture's fine direction, ``anisotropy`` how many times longer structures
    are along ``angle`` (radians) than across it, ``spread`` the relative width of the band.
    """
    ky = np.fft.fftfreq(height)[:, None]
    kx = np.fft.rfftfreq(width)[None, :]
    along = kx * np.cos(angle) + ky * np.sin(angle)
    across = ky * np.cos(angle) - kx * np.sin(angle)
    ring = np.sqrt((along * anisotropy) ** 2 + across**2) * wavelength
    response = np.exp(-((ring - 1.0) ** 2) / (2.0 * spread**2))
    response[0, 0] = 0.0
    spectrum = np.fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
    noise = np.fft.irfft2(spectrum * response, s=(height, width)).astype(np.float32)
    return noise / max(float(noise.std()), 1e-6)


def glint_map(rng: np.random.Generator, height: int, width: int, density: float) -> Array:
    """Smooth spots in [0, 1] that cover about ``density`` of the surface; float32 [height, width]."""
    if density <= 0:
        return np.zeros((height, width), np.float32)
    noise = band_noise(rng, height, width, wavelength=10.0, spread=0.6)
    threshold = float(np.quantile(noise, 1.0 - density))
    spots = np.clip((noise - threshold) / 0.5 + 0.3, 0.0, 1.0) * (noise > threshold)
    return cv2.GaussianBlur(spots.astype(np.float32), (0, 0), 0.7)


def blob_alpha(rng: np.random.Generator, size: int, radius: float) -> Array:
    """Soft mask in [0, 1] of a blob of the given mean radius, centred in a float32 [size, size] canvas."""
    centre = (size - 1) / 2.0
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) - centre
    theta = np.arctan2(y, x)
    boundary = np.full_like(x, radius)
    for order in range(2, 6):
        amplitude = radius * rng.uniform(0.0, 0.30 / order)
        boundary += amplitude * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
    return np.clip(boundary - np.hypot(x, y) + 0.5, 0.0, 1.0).astype(np.float32)
