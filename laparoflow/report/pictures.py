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
TRUTH_COLOUR, FOUND_COLOUR = (255, 255, 255), (255, 64, 64)


def palette(classes: int) -> Picture:
    """Colours of class ids, uint8 [256, 3]: class 0 dark grey, hues spread by the golden ratio, ignored black."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[0] = (90, 90, 90)
    for index in range(1, classes):
        hue = (index * 0.618034) % 1.0
        lightness = 0.5 if index % 2 else 0.65
        colours[index] = np.round(255 * np.array(colorsys.hls_to_rgb(hue, lightness, 0.75))).astype(np.uint8)
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
    """The picture with true points as white rings and detections as red crosses.

    Args:
        image: [H, W, 3].
        truth: [I, K, 3] (x, y, visibility).
        found: per joint [P, 3] (x, y, score).
    """
    drawn = np.ascontiguousarray(image).copy()
    radius = max(3, round(0.02 * max(image.shape[:2])))
    for x, y, visibility in truth.reshape(-1, 3):
        if visibility > 0:
            cv2.circle(drawn, (round(float(x)), round(float(y))), radius, TRUTH_COLOUR, 1, cv2.LINE_AA)
    for x, y, _ in np.concatenate([*found, np.zeros((0, 3))]):
        place = (round(float(x)), round(float(y)))
        cv2.drawMarker(drawn, place, FOUND_COLOUR, cv2.MARKER_TILTED_CROSS, 2 * radius, 1, cv2.LINE_AA)
    return drawn


def pca_pictures(features: Tensor, longest: int = 256) -> list[Picture]:
    """The first three principal components of features [n, C, h, w] as colours, one picture each.

    The components are those of all n maps together, so that equal colours mean equal features; each is scaled from
    its 2nd to its 98th percentile.
    """
    n, channels, height, width = features.shape
    rows = features.permute(0, 2, 3, 1).reshape(-1, channels).double()
    rows = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    components = rows @ vectors[:, -3:].flip(1)
    if channels < 3:
        components = torch.nn.functional.pad(components, (0, 3 - channels))
    low, high = torch.quantile(components[:: max(1, len(components) // 100_000)], torch.tensor([0.02, 0.98]).double(), dim=0)
    scaled = ((components - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    maps = (255 * scaled).round().to(torch.uint8).reshape(n, height, width, 3).numpy()
    scale = max(1, longest // max(height, width))
    return [cv2.resize(picture, (width * scale, height * scale), interpolation=cv2.INTER_NEAREST) for picture in maps]


def flow_picture(
    flow: NDArray[np.floating], longest: float | None = None, valid: NDArray[np.bool_] | None = None
) -> Picture:
    """Flow [2, H, W] as colours: hue is direction (red right, through yellow down), saturation is length.

    Args:
        flow: (dx, dy) in pixels.
        longest: the length shown in full colour; None takes the 99th percentile.
        valid: bool [H, W]; the rest is black.
    """
    dx, dy = flow.astype(np.float64)
    length = np.hypot(dx, dy)
    kept = np.ones(length.shape, bool) if valid is None else valid
    if longest is None:
        longest = float(np.percentile(length[kept], 99)) if kept.any() else 1.0
    hue = (np.degrees(np.arctan2(dy, dx)) % 360) / 2
    saturation = np.clip(length / max(longest, 1e-9), 0, 1) * 255
    hsv = np.stack([hue, saturation, np.full_like(hue, 255)], axis=-1)
    picture = cv2.cvtColor(np.nan_to_num(hsv).round().astype(np.uint8), cv2.COLOR_HSV2RGB)
    picture[~kept] = 0
    return picture.astype(np.uint8)


def beside(pictures: Sequence[Picture]) -> Picture:
    """Pictures in a row on a white ground, tops aligned."""
    if not pictures:
        raise ValueError("pictures must not be empty")
    height = max(picture.shape[0] for picture in pictures)
    width = sum(picture.shape[1] for picture in pictures) + GAP * (len(pictures) - 1)
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    left = 0
    for picture in pictures:
        sheet[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP
    return sheet
