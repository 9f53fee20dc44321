"""Frames of different sizes in one batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from laparoflow.video.cache import CachedFrame


def pad_frame(frame: CachedFrame, height: int, width: int) -> CachedFrame:
    """Enlarge a frame to height x width at its right and bottom, black, without motion and invalid.

    Coordinates and flow keep their meaning, and what was added is masked, so that clips of different sizes can be
    batched: pad to the largest of ``FrameCache.sizes``.

    Args:
        frame: the frame, H x W.
        height, width: the size to reach.

    Raises:
        ValueError: if the frame is larger than that.
    """
    below, right = height - frame.image.shape[0], width - frame.image.shape[1]
    if below < 0 or right < 0:
        raise ValueError(
            f"height and width must be at least those of the frame {frame.image.shape[:2]}, got {(height, width)}"
        )
    if below == right == 0:
        return frame
    return replace(
        frame,
        image=np.pad(frame.image, ((0, below), (0, right), (0, 0))),
        flow=np.pad(frame.flow, ((0, 0), (0, below), (0, right))),
        valid=np.pad(frame.valid, ((0, below), (0, right))),
    )
