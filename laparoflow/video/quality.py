"""Frames and pairs that teach nothing or something wrong: black frames, frozen video, scene cuts."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

BLACK_LEVEL = 30  # grey level that a frame's brightest tenth must reach
FROZEN_DIFFERENCE = 0.25  # mean grey levels by which moving video differs at least, noise alone included
CUT_AGREEMENT = 0.5  # share of visible pixels with consistent flow below which a cut is suspected
CUT_CORRELATION = 0.5  # correlation of two thumbnails below which a suspicion becomes a cut
LEAST_AGREEMENT = 0.1  # share below which a pair's flow is not used at all
THUMBNAIL = (32, 24)


def is_black(frame: Image, visible: Mask) -> bool:
    """Whether the visible part of a frame uint8 [H, W, 3] shows next to nothing."""
    brightness = frame.max(-1)[visible]
    return brightness.size == 0 or float(np.percentile(brightness, 90)) < BLACK_LEVEL


def is_frozen(source: Image, target: Image, visible: Mask) -> bool:
    """Whether two frames are one frame repeated: equal up to coding noise."""
    return float(cv2.absdiff(source, target)[visible].mean()) < FROZEN_DIFFERENCE


def correlation(source: Image, target: Image) -> float:
    """Normalised correlation of two frames' grey thumbnails, in [-1, 1]."""
    small = [
        cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float64)
        for frame in (source, target)
    ]
    first, second = (thumbnail - thumbnail.mean() for thumbnail in small)
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale > 0 else 1.0


def pair_problem(source: Image, target: Image, agreement: float) -> str | None:
    """What is wrong with a pair of frames, given the share of visible pixels whose flow is consistent.

    Returns:
        "scene cut" when flow fails and the frames do not look alike, "no consistent flow" when it fails
        altogether, None for a usable pair.
    """
    if agreement < CUT_AGREEMENT and correlation(source, target) < CUT_CORRELATION:
        return "scene cut"
    return "no consistent flow" if agreement < LEAST_AGREEMENT else None
