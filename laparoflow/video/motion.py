"""What a frame's motion says: how much its parts move against each other, and what the camera does."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Flow = NDArray[np.float32]
Mask = NDArray[np.bool_]

STEP = 3  # every third pixel of every third row is enough to judge a frame
LEAST_POINTS = 64


def relative_motion(flow: Flow, valid: Mask) -> float:
    """How much parts of a frame move against each other, in pixels.

    The 95th percentile over valid pixels of the distance of the flow from its median. A pan of the camera, which
    moves all pixels alike, does not count; an instrument that covers a twentieth of the frame does. 0 if fewer than
    1 % of the pixels are valid.

    Args:
        flow: float32 [2, H, W] in pixels.
        valid: bool [H, W].
    """
    sparse = valid[::STEP, ::STEP]
    if sparse.mean() < 0.01:
        return 0.0
    vectors = flow[:, ::STEP, ::STEP][:, sparse]
    away = vectors - np.median(vectors, axis=1, keepdims=True)
    return float(np.percentile(np.hypot(away[0], away[1]), 95))


def without_camera_motion(flow: Flow, valid: Mask, model: str) -> Flow:
    """Subtract the motion that most of the frame follows.

    Args:
        flow: float32 [2, H, W] in pixels.
        valid: bool [H, W], pixels the model is fitted to (RANSAC, 1 pixel).
        model: "similarity" (shift, rotation, scale) or "affine".

    Returns:
        float32 [2, H, W]; the flow itself if there are too few valid pixels for a fit.

    Raises:
        ValueError: for another model.
    """
    if model not in ("similarity", "affine"):
        raise ValueError(f"model must be 'similarity' or 'affine', got {model!r}")
    rows, columns = np.nonzero(valid[::STEP, ::STEP])
    if len(rows) < LEAST_POINTS:
        return flow
    points = np.stack([columns, rows], 1).astype(np.float32) * STEP
    moved = points + flow[:, rows * STEP, columns * STEP].T
    fit = cv2.estimateAffinePartial2D if model == "similarity" else cv2.estimateAffine2D
    cv2.setRNGSeed(0)
    matrix, _ = fit(points, moved, method=cv2.RANSAC, ransacReprojThreshold=1.0)
    if matrix is None:
        return flow
    height, width = valid.shape
    x = np.arange(width, dtype=np.float64)[None]
    y = np.arange(height, dtype=np.float64)[:, None]
    camera = np.stack([
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] - x,
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] - y,
    ])  # fmt: skip
    return (flow - camera).astype(np.float32)
