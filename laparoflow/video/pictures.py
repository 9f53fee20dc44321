"""One picture per clip by which a person sees whether its cache is right.

Each row is a cached frame: the image, its flow as colour (hue is direction, brightness is length), and the
image with invalid pixels darkened; above it the frame's place in the source, its gap and its motion.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from laparoflow.video.atomic import write_atomically
from laparoflow.video.cache import ClipRecord, read_index, read_sample

ROWS = 6
LABEL = 18  # height in pixels of a row's text


def flow_colours(flow: NDArray[np.float32], longest: float | None = None) -> NDArray[np.uint8]:
    """Flow float32 [2, H, W] as colours uint8 [H, W, 3] RGB; ``longest`` (pixels) is full brightness."""
    length = np.hypot(flow[0], flow[1])
    longest = longest if longest else max(float(np.percentile(length, 98)), 1e-3)
    hue = (np.arctan2(flow[1], flow[0]) + np.pi) / (2 * np.pi) * 179
    value = np.clip(length / longest, 0, 1) * 255
    hsv = np.stack([hue, np.full_like(hue, 220), value], -1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def write_overview(folder: Path, clip: ClipRecord, path: Path) -> None:
    """Write the overview of a finished clip as PNG.

    Args:
        folder: the clip's folder.
        clip: its record.
        path: the picture to write.
    """
    index = read_index(folder)
    chosen = sorted({round(place) for place in np.linspace(0, len(index) - 1, ROWS)}) if len(index) else []
    rows = []
    for row in index[chosen]:
        frame = read_sample(folder, clip, row)
        image = frame.image
        trusted = np.where(frame.valid[..., None], image, image // 4 + np.array([60, 0, 0], np.uint8))
        strip = np.hstack([image, flow_colours(frame.flow[:2]), trusted]).astype(np.uint8)
        text = f"frame {frame.frame}, {frame.time:.2f} s, gap {frame.gap}, motion {row['motion']:.2f} px"
        label = np.zeros((LABEL, strip.shape[1], 3), np.uint8)
        cv2.putText(label, text, (4, LABEL - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
        rows.extend([label, strip])
    if not rows:
        return
    done, data = cv2.imencode(".png", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"cannot encode the overview picture {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(data.tobytes())
