"""Pictures of what a network sees: all functions return RGB uint8 [H, W, 3]."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laparoflow.datasets.samples import IGNORE_INDEX

Picture = NDArray[np.uint8]
GAP = 4
LONGEST = 512
"""Longer side, in pixels, that a picture for the page is shrunk to."""
PCK_RADIUS = 0.05
"""Share of the picture's diagonal within which the charted PCK counts a key point as found."""
TRUTH_COLOUR, FOUND_COLOUR = (255, 255, 255), (255, 64, 64)


def palette(classes: int) -> Picture:
    """Colours of class ids, uint8 [256, 3]: class 0 dark grey, hues spread by the golden ratio, ignored black."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[0] = (90, 90, 90)
    for index in range(1, classes):
        hue = (index * 0.618034) % 1.0
        lightness = 0.5 if index % 2 else 0.65
        colours[index] = np.round(255 * np.array(colorsys.hls_to_rgb(hue, lightness, 0.75)))
    colours[IGNORE_INDEX] = 0
    return colours


def overlay(image: Picture, mask: NDArray[np.integer], classes: int, opacity: float = 0.55) -> Picture:
    """The picture with its classes painted over; ignored pixels are darkened."""
    colours = palette(classes)[mask]
    return np.round((1 - opacity) * image + opacity * colours).astype(np.uint8)


def shrink(picture: Picture, longest: int = LONGEST) -> Picture:
    """The picture with its longer side at most `longest` pixels."""
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def mask_picture(image: Picture, truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int) -> Picture:
    """picture | truth | prediction, side by side, each at most LONGEST pixels wide or high."""
    panels = (image, overlay(image, truth, classes), overlay(image, prediction, classes))
    return beside([shrink(panel) for panel in panels])


def keypoint_picture(image: Picture, truth: NDArray[np.floating], found: Sequence[NDArray[np.floating]]) -> Picture:
    """The picture with true points [I, K, 3] (x, y, visibility) in white, each in a circle of the radius within which PCK
    counts, and detections, per joint [P, 3] (x, y, score), as red crosses.
    """
    drawn = np.ascontiguousarray(image).copy()
    radius = max(3, round(PCK_RADIUS * float(np.hypot(*image.shape[:2]))))
    for x, y, visibility in truth.reshape(-1, 3):
        if visibility > 0:
            place = (round(float(x)), round(float(y)))
            cv2.circle(drawn, place, radius, TRUTH_COLOUR, 1, cv2.LINE_AA)
            cv2.circle(drawn, place, 1, TRUTH_COLOUR, -1, cv2.LINE_AA)
    for x, y, _ in np.concatenate([*found, np.zeros((0, 3))]):
        place = (round(float(x)), round(float(y)))
        cv2.drawMarker(drawn, place, FOUND_COLOUR, cv2.MARKER_TILTED_CROSS, max(5, radius // 2), 2, cv2.LINE_AA)
    return drawn


class Components:
    """The first three principal components of features as colours; equal colours mean equal features.

    Each component is scaled from its 2nd to its 98th percentile in the features ``rows`` [n, C].
    """

    def __init__(self, rows: Tensor) -> None:
        rows = rows[:: max(1, len(rows) // 100_000)].double()
        self.mean = rows.mean(0)
        _, vectors = torch.linalg.eigh((rows - self.mean).T @ (rows - self.mean))
        self.vectors = torch.nn.functional.pad(vectors[:, -3:].flip(1), (0, max(0, 3 - rows.shape[1])))
        components = (rows - self.mean) @ self.vectors
        self.low, self.high = torch.quantile(components, torch.tensor([0.02, 0.98]).double(), dim=0)

    def picture(self, features: Tensor) -> Picture:
        """Features [C, h, w] as colours [h, w, 3]."""
        components = (features.movedim(0, -1).double() - self.mean) @ self.vectors
        scaled = ((components - self.low) / (self.high - self.low).clamp_min(1e-12)).clamp(0, 1)
        return (255 * scaled).round().to(torch.uint8).numpy()


def pca_pictures(features: Tensor, longest: int = 256) -> list[Picture]:
    """:class:`Components` of all features [n, C, h, w] together, one enlarged picture each."""
    components = Components(features.movedim(1, -1).flatten(0, 2))
    scale = max(1, longest // max(features.shape[2:]))
    return [np.repeat(np.repeat(components.picture(item), scale, 0), scale, 1) for item in features]


def beside(pictures: Sequence[Picture]) -> Picture:
    """Pictures in a row on a white ground, tops aligned."""
    height = max(picture.shape[0] for picture in pictures)
    gaps = [GAP] * (len(pictures) - 1) + [0]
    around = [((0, height - len(picture)), (0, gap), (0, 0)) for picture, gap in zip(pictures, gaps, strict=True)]
    return np.hstack([np.pad(p, sides, constant_values=255) for p, sides in zip(pictures, around, strict=True)])


def panels(sheet: Picture, count: int) -> list[Picture]:
    """The pictures of one size that :func:`beside` put in a row."""
    width = (sheet.shape[1] - GAP * (count - 1)) // count
    return [sheet[:, left : left + width] for left in range(0, count * (width + GAP), width + GAP)]
