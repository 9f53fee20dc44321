"""The black border of an endoscope: a circle, or bars at the sides.

From frames spread over the video the brightest value that each pixel ever takes is thresholded. The outline of the bright
area, where it is not the frame's own edge, is fitted by a circle; if it is none, the bounding box remains.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

DARK = 24  # grey level (0..255) below which a pixel counts as border
MIN_BORDER = 0.01  # share of the frame that must be dark


@dataclass(frozen=True)
class Border:
    """What is visible of a source frame, in source pixels.

    Attributes:
        box: (left, top, right, bottom) of the visible part, right and bottom exclusive.
        circle: (x, y, radius) of the visible circle, or None.
    """

    box: tuple[int, int, int, int]
    circle: tuple[float, float, float] | None = None

    def mask(self, height: int, width: int, crop: tuple[int, int, int, int], margin: float) -> NDArray[np.bool_]:
        """bool [height, width], True where a frame resized from the box ``crop`` of the source shows something.

        ``margin`` is by how many pixels of the resized frame the circle is shrunk.
        """
        step_x, step_y = (crop[2] - crop[0]) / width, (crop[3] - crop[1]) / height
        x = crop[0] + (np.arange(width) + 0.5) * step_x - 0.5
        y = crop[1] + (np.arange(height) + 0.5) * step_y - 0.5
        if self.circle is not None:
            centre_x, centre_y, radius = self.circle
            radius -= margin * max(step_x, step_y)
            return (x[None] - centre_x) ** 2 + (y[:, None] - centre_y) ** 2 <= radius**2
        left, top, right, bottom = self.box
        inside_x = (x >= left - 0.5) & (x <= right - 0.5)
        inside_y = (y >= top - 0.5) & (y <= bottom - 0.5)
        return inside_y[:, None] & inside_x[None]


def _outline(visible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Outermost visible pixels of each row and column that are not on the frame's edge, [P, 2] as (x, y)."""
    points = []
    for axis in (0, 1):
        area = visible if axis == 0 else visible.T
        rows = np.flatnonzero(area.any(1))
        first = area[rows].argmax(1)
        last = area.shape[1] - 1 - area[rows][:, ::-1].argmax(1)
        for place, edge in ((first, 0), (last, area.shape[1] - 1)):
            keep = np.abs(place - edge) > 1
            pair = np.stack([place[keep], rows[keep]], 1)
            points.append(pair if axis == 0 else pair[:, ::-1])
    return np.concatenate(points).astype(np.float64)


def _fit_circle(points: NDArray[np.float64]) -> tuple[float, float, float, float] | None:
    """Least squares circle with outliers dropped: (x, y, radius, rms residual), or None."""
    kept = points
    for _ in range(6):
        if len(kept) < 16:
            return None
        middle = kept.mean(0)
        local = kept - middle
        design = np.column_stack([2 * local, np.ones(len(local))])
        (a, b, c), *_ = np.linalg.lstsq(design, (local**2).sum(1), rcond=None)
        radius = float(np.sqrt(max(c + a * a + b * b, 0.0)))
        x, y = a + middle[0], b + middle[1]
        distance = np.abs(np.hypot(points[:, 0] - x, points[:, 1] - y) - radius)
        limit = max(2.0, 2.5 * float(np.median(distance)))
        kept = points[distance <= limit]
    if len(kept) < 0.6 * len(points):
        return None
    residual = np.hypot(kept[:, 0] - x, kept[:, 1] - y) - radius
    return float(x), float(y), radius, float(np.sqrt((residual**2).mean()))


def detect_border(frames: list[NDArray[np.uint8]]) -> Border:
    """The border common to frames uint8 [H, W, 3] of one size; the whole frame where there is none or all are dark."""
    brightest = np.max([frame.max(-1) for frame in frames], axis=0)
    height, width = brightest.shape
    whole = Border((0, 0, width, height))
    bright = cv2.morphologyEx((brightest > DARK).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bright)
    if count < 2:
        return whole
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    visible = labels == largest
    if visible.sum() < 0.2 * visible.size or 1.0 - visible.mean() < MIN_BORDER:
        return whole
    left, top, box_width, box_height = (int(stats[largest, k]) for k in range(4))
    box = (left, top, left + box_width, top + box_height)
    circle = _fit_circle(_outline(visible))
    if circle is None or circle[3] > 0.015 * circle[2] or not 0.2 < circle[2] / max(height, width) < 1.5:
        return Border(box)
    x, y, radius, _ = circle
    outside = ~Border(box, (x, y, radius + 2)).mask(height, width, whole.box, 0.0)
    if outside.mean() < MIN_BORDER or (brightest[outside] > DARK).mean() > 0.05:
        return Border(box)
    clipped = (
        max(0, int(np.floor(x - radius))), max(0, int(np.floor(y - radius))),
        min(width, int(np.ceil(x + radius)) + 1), min(height, int(np.ceil(y + radius)) + 1),
    )  # fmt: skip
    return Border(clipped, (round(x, 2), round(y, 2), round(radius, 2)))
