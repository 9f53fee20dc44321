"""Optical flow between two frames and where it can be trusted.

Flow is (dx, dy) in pixels of the frame, from source to target: target(x + flow(x)) shows what source(x) shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    "fine": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@dataclass(frozen=True)
class FlowPair:
    """Flow between two frames, float32 [2, H, W] each: source to target, and back or None where that is not known.

    ``valid`` bool [H, W] is where the estimator itself vouches for ``forward``, or None for everywhere.
    """

    forward: Flow
    backward: Flow | None
    valid: Mask | None = None


FlowEstimator = Callable[[Image, Image, int], FlowPair]
"""Gives the flow between a source and a target frame, uint8 [H, W, 3]; the number is the source frame's in its file."""


class DISFlow:
    """Dense inverse search flow (Kroeger et al., ECCV 2016) of OpenCV.

    Args:
        preset: "ultrafast", "fast" or "medium" as in OpenCV, which end at a quarter or half of the frame's size; "fine"
            is "medium" down to single pixels. On frames of 144 x 192 pixels it halves the error in four times the time.
    """

    def __init__(self, preset: str = "medium") -> None:
        self.engine = cv2.DISOpticalFlow.create(DIS_PRESETS[preset])
        if preset == "fine":
            self.engine.setFinestScale(0)

    def __call__(self, source: Image, target: Image, frame: int = 0) -> FlowPair:
        """Flow both ways between uint8 [H, W, 3] frames of one size."""
        first = cv2.cvtColor(source, cv2.COLOR_RGB2GRAY)
        second = cv2.cvtColor(target, cv2.COLOR_RGB2GRAY)
        start: Any = None  # no flow to start from; the stubs do not know that it may be left out
        forward = self.engine.calc(first, second, start)
        backward = self.engine.calc(second, first, start)
        return FlowPair(_planes(forward), _planes(backward))


def _planes(flow: NDArray[Any]) -> Flow:
    return np.ascontiguousarray(flow.transpose(2, 0, 1), np.float32)


def _arrival(flow: Flow) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and y [H, W] of the places to which the pixels go."""
    rows, columns = (np.arange(count, dtype=np.float32) for count in flow.shape[1:])
    return columns + flow[0], rows[:, None] + flow[1]


def warp_by_flow(values: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
    """Read target-frame values [C, H, W] where the flow points: result(x) = values(x + flow(x)), bilinear."""
    x, y = _arrival(flow)
    planes = [cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for plane in values]
    return np.stack(planes).astype(np.float32)


def consistency_mask(pair: FlowPair, visible: Mask, relative: float = 0.01, absolute: float = 0.5) -> Mask:
    """Where forward and backward flow agree (Sundaram et al., ECCV 2010), are finite, and lead between visible pixels.

    That is |f + b|^2 <= relative * (|f|^2 + |b|^2) + absolute, with b read where f points; without a backward flow only what
    can be checked without it is. ``visible`` and the result are bool [H, W].
    """
    height, width = visible.shape
    keep = visible & np.isfinite(pair.forward).all(0)
    if pair.valid is not None:
        keep = keep & pair.valid
    forward = np.nan_to_num(pair.forward)
    x, y = _arrival(forward)
    arrives = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    column = np.clip(np.rint(x), 0, width - 1).astype(np.int64)
    row = np.clip(np.rint(y), 0, height - 1).astype(np.int64)
    keep = keep & arrives & visible[row, column]
    if pair.backward is None:
        return keep
    back = warp_by_flow(pair.backward, forward)
    gap = ((forward + back) ** 2).sum(0)
    size = (forward**2).sum(0) + (back**2).sum(0)
    return keep & np.isfinite(gap) & (gap <= relative * size + absolute)
