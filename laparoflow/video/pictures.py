"""One picture per clip by which a person sees whether its cache is right.

Each row is a cached frame: the image, its flow as colour, and the image with invalid pixels darkened; above it the
frame's place in the source, its gap, its motion, and the legend of the colours with the length of its rim.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from laparoflow.files import write_png
from laparoflow.video.cache import ClipRecord, read_index, read_sample

ROWS = 6
LABEL = 18  # height in pixels of a row's text


def flow_picture(flow: NDArray[np.floating], longest: float, valid: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Flow [2, H, W] in the colours of ``torchvision.utils.flow_to_image``, uint8 [H, W, 3]: hue is direction, white rest.

    A vector of ``longest`` pixels or more has the full colour (see :func:`full_length`); what is not ``valid`` is black.
    """
    import torch
    from torchvision.utils import flow_to_image

    vectors = np.nan_to_num(flow.astype(np.float32))
    vectors = vectors * np.minimum(1, longest / np.maximum(np.hypot(*vectors), 1e-9))
    scale = np.zeros((2, 1, vectors.shape[2]), np.float32)
    scale[0] = longest  # flow_to_image divides by the longest vector that it is given
    colours = flow_to_image(torch.from_numpy(np.concatenate([vectors, scale], 1)))[:, :-1].permute(1, 2, 0).numpy()
    return colours if valid is None else np.where(valid[..., None], colours, 0).astype(np.uint8)


def full_length(flow: NDArray[np.floating], valid: NDArray[np.bool_] | None = None) -> float:
    """The 99th percentile of the flow's length over the valid pixels, at least 0.001 pixels."""
    lengths = np.hypot(*flow.astype(np.float64))
    lengths = lengths[np.isfinite(lengths) if valid is None else valid]
    return max(float(np.percentile(lengths, 99)), 1e-3) if lengths.size else 1e-3


def flow_wheel(side: int) -> NDArray[np.uint8]:
    """The legend of :func:`flow_picture`, uint8 [side, side, 3]: each place is coloured as flow from the middle to there."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return np.where(np.hypot(x, y)[..., None] <= 1, flow_picture(np.stack([x, y]), 1.0), 255).astype(np.uint8)


def write_overview(folder: Path, clip: ClipRecord, path: Path) -> None:
    """Write the overview of a finished clip, which lies in ``folder``, as PNG."""
    index = read_index(folder)
    chosen = sorted({round(place) for place in np.linspace(0, len(index) - 1, ROWS)}) if len(index) else []
    rows = []
    for row in index[chosen]:
        frame = read_sample(folder, clip, row)
        image, flow = frame.image, frame.flow[:2]
        trusted = np.where(frame.valid[..., None], image, image // 4 + np.array([60, 0, 0], np.uint8))
        longest = full_length(flow, frame.valid)
        strip = np.hstack([image, flow_picture(flow, longest), trusted]).astype(np.uint8)
        text = f"frame {frame.frame}, {frame.time:.2f} s, gap {frame.gap}, motion {row['motion']:.2f} px"
        text += f", rim of the wheel {longest:.1f} px"
        label = np.zeros((LABEL, strip.shape[1], 3), np.uint8)
        label[:, -LABEL:] = flow_wheel(LABEL)
        cv2.putText(label, text, (4, LABEL - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
        rows.extend([label, strip])
    if rows:
        write_png(path, np.vstack(rows).astype(np.uint8))
