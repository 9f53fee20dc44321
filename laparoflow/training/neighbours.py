"""The neighbour of a frame: the cached frame before or after it in its clip, and where its pixels have gone in it.

The cache holds flow to frames that need not be cached themselves, so the flow to the neighbour is estimated here, by DIS
(Kroeger et al., ECCV 2016): 5 ms of a CPU core for a frame of 192 x 144 pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from laparoflow.video.cache import CachedFrame
from laparoflow.video.flow import DISFlow, consistency_mask
from laparoflow.video.threads import one_opencv_thread

PRESET, RELATIVE, ABSOLUTE = "fast", 0.02, 0.75
"""Of the flow: what neighbours show is further apart than the frames of a flow pair, so the check is looser than its."""


class Neighbours(NamedTuple):
    """Neighbours of some frames of a batch.

    Attributes:
        row: int64 [n], the frames' places in the batch.
        image: uint8 [n, 3, H, W], the neighbours.
        valid: bool [n, H, W], of the neighbours.
        flow: float32 [n, 2, H, W], (dx, dy) in pixels, from the frames to their neighbours.
        trusted: bool [n, H, W], pixels of the frames that are valid and whose flow agrees with the flow back.
    """

    row: Tensor
    image: Tensor
    valid: Tensor
    flow: Tensor
    trusted: Tensor


def neighbour_position(index: int, clip: range, after: bool) -> int:
    """Position of the frame before or after frame ``index``; the other one at an end, itself where it is alone."""
    for place in (index + 1, index - 1) if after else (index - 1, index + 1):
        if place in clip:
            return place
    return index


def neighbour(row: int, frame: CachedFrame, near: CachedFrame) -> Neighbours:
    """One frame's neighbour, without the batch dimension; both frames have one size."""
    with one_opencv_thread():
        pair = DISFlow(PRESET)(frame.image, near.image)
    trusted = torch.from_numpy(consistency_mask(pair, np.ones_like(frame.valid), RELATIVE, ABSOLUTE))
    image = torch.from_numpy(near.image.copy()).permute(2, 0, 1)
    valid = torch.from_numpy(near.valid.copy())
    own = torch.from_numpy(frame.valid.copy())
    return Neighbours(torch.tensor(row), image, valid, torch.from_numpy(pair.forward), trusted & own)
