"""Options of the two views."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from laparoflow.bounds import check_numbers, check_range

MAX_CYCLES = 2.0
MAX_ELASTIC = 0.5 / (2 * math.pi * MAX_CYCLES * math.sqrt(2.0))


@dataclass(frozen=True)
class GeometrySettings:
    """Ranges from which each view's transform is drawn.

    Attributes:
        scale: range of the crop's area as a share of the largest box of its shape inside the frame.
        aspect: range of the crop's width-to-height ratio, relative to the view's own.
        flip: probability of a left-right flip.
        vertical_flip: probability of an up-down flip.
        rotation: largest rotation in degrees, either way.
        shear: largest shear in degrees, either way.
        perspective: largest relative change of scale from the centre to an edge, in [0, 0.45].
        elastic: largest elastic displacement as a share of the view's shorter side, in [0, 0.028].
    """

    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.8, 1.25)
    flip: float = 0.5
    vertical_flip: float = 0.0
    rotation: float = 20.0
    shear: float = 5.0
    perspective: float = 0.1
    elastic: float = 0.01

    def __post_init__(self) -> None:
        check_range(self, "scale aspect")
        check_numbers(self, "flip vertical_flip", low=0, high=1)
        if self.scale[1] > 1:
            raise ValueError(f"scale must be a share of at most 1, got {self.scale}")
        for name, limit in (("rotation", 180.0), ("shear", 45.0), ("perspective", 0.45), ("elastic", MAX_ELASTIC)):
            check_numbers(self, name, low=0, high=limit)


@dataclass(frozen=True)
class PhotometricSettings:
    """Strengths and probabilities of the photometric transforms.

    Attributes:
        jitter: probability of a colour jitter.
        brightness, contrast, saturation: largest relative change, factor in [1 - s, 1 + s].
        hue: largest shift of the hue as a share of the colour circle, at most 0.5.
        grey: probability of dropping the colour.
        blur: probability of a Gaussian blur.
        blur_sigma: range of the blur's standard deviation in view pixels.
    """

    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.3
    blur_sigma: tuple[float, float] = (0.1, 1.0)

    def __post_init__(self) -> None:
        check_numbers(self, "jitter grey blur brightness contrast saturation", low=0, high=1)
        check_numbers(self, "hue", low=0, high=0.5)
        check_range(self, "blur_sigma")


@dataclass(frozen=True)
class ViewSettings:
    """How views are made.

    Attributes:
        size: (h, w) of a view in pixels.
        geometry: geometric transforms.
        photometric: photometric transforms.
    """

    size: tuple[int, int] = (112, 112)
    geometry: GeometrySettings = field(default_factory=GeometrySettings)
    photometric: PhotometricSettings = field(default_factory=PhotometricSettings)

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be (height, width) of at least 1 pixel, got {self.size}")
