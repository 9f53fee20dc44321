"""What a frame's motion says: how much its parts move against each other, and what the camera does."""

from __future__ import annotations

import cv2
import numpy as np

from laparoflow.video.flow import Flow, Mask

STEP = 3  # every third pixel of every third row is enough to judge a frame
LEAST_POINTS = 64


def relative_motion(flow: Flow, valid: Mask) -> float:
    """How much parts of a frame move against each other, in pixels, by its flow float32 [2, H, W] where ``valid`` [H, W].

    The 95th percentile of the distance of the flow from its median. A pan of the camera, which moves all pixels alike,
    does not count; an instrument that covers a twentieth of the frame does. 0 if fewer than 1 % of the pixels are valid.
    """
    sparse = valid[::STEP, ::STEP]
    if sparse.mean() < 0.01:
        return 0.0
    vectors = flow[:, ::STEP, ::STEP][:, sparse]
    away = vectors - np.median(vectors, axis=1, keepdims=True)
    return float(np.percentile(np.hypot(away[0], away[1]), 95))


def without_camera_motion(flow: Flow, valid: Mask, model: str) -> Flow:
    """Flow float32 [2, H, W] in pixels less the motion that most of the frame follows.

    The model, "similarity" (shift, rotation, scale) or "affine", is fitted to the valid pixels (RANSAC, 1 pixel); where
    these are too few, the flow is returned as it is.
    """
    rows, columns = np.nonzero(valid[::STEP, ::STEP])
    if len(rows) < LEAST_POINTS:
        return flow
    points = np.stack([columns, rows], 1).astype(np.float32) * STEP
    moved = points + flow[:, rows * STEP, columns * STEP].T
    cv2.setRNGSeed(0)
    fit = {"similarity": cv2.estimateAffinePartial2D, "affine": cv2.estimateAffine2D}[model]
    matrix, _ = fit(points, moved, method=cv2.RANSAC, ransacReprojThreshold=1.0)
    if matrix is None:
        return flow
    y, x = np.mgrid[: valid.shape[0], : valid.shape[1]].astype(np.float64)
    camera = np.tensordot(matrix, np.stack([x, y, np.ones_like(x)]), 1) - [x, y]
    return (flow - camera).astype(np.float32)
