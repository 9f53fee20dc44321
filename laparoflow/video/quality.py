"""Frames and pairs that teach nothing or something wrong: black frames, frozen video, scene cuts."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from laparoflow.video.flow import Flow, Image, Mask, warp_by_flow

BLACK_LEVEL = 30  # grey level that a frame's brightest tenth must reach
FROZEN_DIFFERENCE = 0.25  # mean grey levels by which moving video differs at least, noise alone included
CUT_AGREEMENT = 0.75  # share of visible pixels with consistent flow below which a cut is suspected
CUT_CORRELATION = 0.3  # correlation of detail below which a suspicion becomes a cut: 0.7 and up is usual, a cut has < 0.25
LEAST_AGREEMENT = 0.1  # share below which a pair's flow is not used at all
DETAIL_SIZE = 3.0  # standard deviation in pixels of the blur that separates detail from the rest


def is_black(frame: Image, visible: Mask) -> bool:
    """Whether the visible part of a frame uint8 [H, W, 3] shows next to nothing."""
    brightness = frame.max(-1)[visible]
    return brightness.size == 0 or float(np.percentile(brightness, 90)) < BLACK_LEVEL


def is_frozen(source: Image, target: Image, visible: Mask) -> bool:
    """Whether two frames are one frame repeated: equal up to coding noise."""
    return float(cv2.absdiff(source, target)[visible].mean()) < FROZEN_DIFFERENCE


def _detail(frame: Image) -> NDArray[np.float32]:
    """Grey values float32 [H, W] without what varies slowly."""
    grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.float32)
    return grey - np.asarray(cv2.GaussianBlur(grey, (0, 0), DETAIL_SIZE), np.float32)


def detail_correlation(source: Image, target: Image, flow: Flow, visible: Mask) -> float:
    """How well the target, read where the flow points, shows the source's detail: correlation in [-1, 1].

    Two pictures (uint8 [H, W, 3]) of one scene agree in it where they are ``visible``, two of different scenes do not,
    however alike their colours are and however hard a flow estimator tries.
    """
    details = _detail(source)[visible], warp_by_flow(_detail(target)[None], flow)[0][visible]
    first, second = (detail - detail.mean() for detail in details)
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale > 0 else 1.0


def pair_problem(source: Image, target: Image, flow: Flow, valid: Mask, visible: Mask) -> str | None:
    """What is wrong with a pair of frames uint8 [H, W, 3], by its flow and where that is valid; None for a usable one.

    "scene cut" when much of the flow is inconsistent and the frames do not show one scene, "no consistent flow" when nearly
    all of it is. ``visible`` are the pixels inside the border.
    """
    agreement = float(valid.sum() / max(1, int(visible.sum())))
    if agreement < CUT_AGREEMENT and detail_correlation(source, target, flow, visible) < CUT_CORRELATION:
        return "scene cut"
    return "no consistent flow" if agreement < LEAST_AGREEMENT else None
