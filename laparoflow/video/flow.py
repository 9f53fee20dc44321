"""Optical flow between two frames and where it can be trusted.

Flow is (dx, dy) in pixels of the frame, from source to target: target(x + flow(x)) shows what source(x) shows.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Flow = NDArray[np.float32]
Mask = NDArray[np.bool_]

DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class FlowEstimator(Protocol):
    """Anything that gives the flow between two frames, both ways."""

    def __call__(self, source: Image, target: Image) -> tuple[Flow, Flow]:
        """Flow float32 [2, H, W] from source to target, and from target to source, of uint8 [H, W, 3] frames."""


class DISFlow:
    """Dense inverse search flow (Kroeger et al., ECCV 2016) of OpenCV.

    Args:
        preset: "ultrafast", "fast" or "medium".
    """

    def __init__(self, preset: str = "medium") -> None:
        if preset not in DIS_PRESETS:
            raise ValueError(f"preset must be one of {tuple(DIS_PRESETS)}, got {preset!r}")
        self.engine = cv2.DISOpticalFlow.create(DIS_PRESETS[preset])

    def __call__(self, source: Image, target: Image) -> tuple[Flow, Flow]:
        """Flow both ways, float32 [2, H, W] each."""
        if source.shape != target.shape:
            raise ValueError(f"source and target must have one shape, got {source.shape} and {target.shape}")
        first = cv2.cvtColor(source, cv2.COLOR_RGB2GRAY)
        second = cv2.cvtColor(target, cv2.COLOR_RGB2GRAY)
        forward = self.engine.calc(first, second, None)
        backward = self.engine.calc(second, first, None)
        return _planes(forward), _planes(backward)


def _planes(flow: NDArray[np.float32]) -> Flow:
    return np.ascontiguousarray(flow.transpose(2, 0, 1), np.float32)


def warp_by_flow(values: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
    """Read target-frame values [C, H, W] where the flow points: result(x) = values(x + flow(x)), bilinear."""
    height, width = flow.shape[1:]
    x = np.arange(width, dtype=np.float32)[None] + flow[0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[1]
    planes = [cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for plane in values]
    return np.stack(planes).astype(np.float32)


def consistency_mask(
    forward: Flow, backward: Flow, visible: Mask, relative: float = 0.01, absolute: float = 0.5
) -> Mask:
    """Where forward and backward flow agree (Sundaram et al., ECCV 2010).

    Args:
        forward: float32 [2, H, W], source to target.
        backward: float32 [2, H, W], target to source.
        visible: bool [H, W], pixels inside the visible circle, the same for both frames.
        relative, absolute: |f + b|^2 <= relative * (|f|^2 + |b|^2) + absolute, with b read where f points.

    Returns:
        bool [H, W], True where the flow agrees, is finite, and leads from a visible to a visible pixel of the frame.
    """
    height, width = visible.shape
    finite = np.isfinite(forward).all(0) & np.isfinite(backward).all(0)
    forward, backward = np.nan_to_num(forward), np.nan_to_num(backward)
    back = warp_by_flow(backward, forward)
    gap = ((forward + back) ** 2).sum(0)
    size = (forward**2).sum(0) + (back**2).sum(0)
    x = np.arange(width)[None] + forward[0]
    y = np.arange(height)[:, None] + forward[1]
    arrives = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    column = np.clip(np.rint(x), 0, width - 1).astype(np.int64)
    row = np.clip(np.rint(y), 0, height - 1).astype(np.int64)
    return finite & visible & arrives & visible[row, column] & (gap <= relative * size + absolute)


def relative_motion(flow: Flow, valid: Mask) -> float:
    """How much parts of a frame move against each other, in pixels.

    The 90th percentile over valid pixels of the distance of the flow from its median. Camera pan, which moves all
    pixels alike, does not count. 0 if fewer than 1 % of the pixels are valid.
    """
    if valid.mean() < 0.01:
        return 0.0
    vectors = flow[:, valid]
    away = vectors - np.median(vectors, axis=1, keepdims=True)
    return float(np.percentile(np.hypot(away[0], away[1]), 90))
