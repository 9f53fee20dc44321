"""From peaks per joint to whole instruments.

The joint with the most peaks anchors the instruments, one each; the peaks of every other joint go to the anchors
one to one at least total distance. An instrument's score is the mean score of its joints; a joint that it lacks is put
at the mean of those it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from laparoflow.metrics.oks import joint_boxes

SMALLEST_SIDE = 0.1
"""Least side of an instrument for the key-point similarity, as a fraction of the picture's diagonal."""


def group_instruments(peaks: Sequence[NDArray[np.floating]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Joints [I, K, 2] and scores [I] of the instruments of a picture, from peaks per joint [P, 3] (x, y, score)."""
    joints = len(peaks)
    anchor = max(range(joints), key=lambda k: (len(peaks[k]), peaks[k][:, 2].sum()))
    count = len(peaks[anchor])
    members = np.full((count, joints, 3), np.nan)
    members[:, anchor] = peaks[anchor]
    for joint, found in enumerate(peaks):
        if joint == anchor or not len(found) or not count:
            continue
        distance = np.linalg.norm(members[:, None, anchor, :2] - found[None, :, :2], axis=-1)
        rows, columns = linear_sum_assignment(distance)
        members[rows, joint] = found[columns]
    if not count:
        return np.zeros((0, joints, 2)), np.zeros(0)
    centres = np.nanmean(members[..., :2], axis=1, keepdims=True)
    places = np.where(np.isnan(members[..., :2]), centres, members[..., :2])
    return places, np.nansum(members[..., 2], axis=1) / joints


def instrument_areas(truth: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float64]:
    """Areas [I] in square pixels, for the key-point similarity, of key points [I, K, 3] in a picture (height, width).

    None of the data sets has instrument areas. The box of the joints stands in for it, but never less than a square of
    a tenth of the picture's diagonal: an instrument with one joint, or seen end on, has a box of no size.
    """
    boxes = joint_boxes(truth)
    least = (SMALLEST_SIDE * np.hypot(*size)) ** 2
    return np.maximum(boxes[:, 2] * boxes[:, 3], least)
