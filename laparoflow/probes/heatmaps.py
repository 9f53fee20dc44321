"""Key points as heat maps, and back.

The head's maps are upsampled to a stride of at most 4 pixels. The target of a joint is the maximum over the instruments
of exp(-d^2 / (2 sigma^2)), d the distance to the joint in cells, 0 where the joint is absent. The loss is the
penalty-reduced focal loss of CornerNet and CenterNet, which tells peaks from their slopes and needs no balance of
empty against full maps:

    at the cell of a point   -(1 - p)^2 log p
    elsewhere                -(1 - target)^4 p^2 log(1 - p)         summed, over the number of points (at least 1)

Detections are local maxima of p, refined to a fraction of a cell by a parabola through log p.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

FINEST_STRIDE = 4
NEIGHBOURHOOD = 5


def heatmap_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(h, w) of the heat maps of a picture (height, width) whose features have this stride."""
    stride = stride if stride <= FINEST_STRIDE else max(d for d in range(1, FINEST_STRIDE + 1) if stride % d == 0)
    return size[0] // stride, size[1] // stride


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, K, h, w] at the heat maps' size, bilinear."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def rescaled(points: NDArray[np.floating], size: tuple[int, int], other: tuple[int, int]) -> NDArray[np.float64]:
    """Points (x, y) [..., 2] of a grid of one (height, width) in those of another; centres lie at integers in both."""
    return (np.asarray(points, dtype=np.float64) + 0.5) * np.divide(other, size)[::-1] - 0.5


def heatmap_target(keypoints: NDArray[np.float32], source: tuple[int, int], cells: tuple[int, int], sigma: float) -> Tensor:
    """Target of one picture, float32 [2, K, h, w]: the heat maps, and 1 at the cell of each point.

    Key points [I, K, 3] are in pixels of the source (height, width), sigma in cells (h, w) of the heat maps.
    """
    heat, peaks = torch.zeros(2, keypoints.shape[1], *cells)
    rows, columns = torch.arange(cells[0])[:, None], torch.arange(cells[1])[None]
    centres = rescaled(keypoints[..., :2], source, cells)
    for instrument, joint in zip(*np.nonzero(keypoints[..., 2] > 0), strict=True):
        x, y = centres[instrument, joint]
        squared = (columns - x) ** 2 + (rows - y) ** 2
        heat[joint] = torch.maximum(heat[joint], torch.exp(-squared / (2 * sigma**2)).float())
        row = min(max(round(y), 0), cells[0] - 1)
        column = min(max(round(x), 0), cells[1] - 1)
        peaks[joint, row, column] = 1
    return torch.stack([heat, peaks])


def focal_loss(maps: Tensor, target: Tensor) -> Tensor:
    """The loss above; maps (logits) [B, K, h', w'], target [B, 2, K, h, w]."""
    heat, peaks = target[:, 0], target[:, 1]
    logits = upsample(maps, (heat.shape[-2], heat.shape[-1]))
    log_p, log_not, p = F.logsigmoid(logits), F.logsigmoid(-logits), logits.sigmoid()
    at = peaks * (1 - p) ** 2 * log_p
    elsewhere = (1 - peaks) * (1 - heat) ** 4 * p**2 * log_not
    return -(at.sum() + elsewhere.sum()) / peaks.sum().clamp_min(1)


@torch.no_grad()
def detect(maps: Tensor, source: tuple[int, int], most: int) -> list[NDArray[np.float64]]:
    """Local maxima of one picture's maps, logits [K, h, w].

    Per joint [P, 3] (x, y, score) in pixels of the source (height, width), best first, P at most `most`.
    """
    cells = (maps.shape[-2], maps.shape[-1])
    largest = F.max_pool2d(maps[None], NEIGHBOURHOOD, stride=1, padding=NEIGHBOURHOOD // 2)[0]
    candidates = torch.where(maps == largest, maps, -torch.inf).flatten(1)
    values, places = candidates.topk(min(most, candidates.shape[1]), dim=1)
    log_p = F.logsigmoid(maps).cpu().double().numpy()
    found = []
    for joint, (scores, indices) in enumerate(zip(values.cpu(), places.cpu(), strict=True)):
        finite = torch.isfinite(scores)
        rows, columns = np.divmod(indices[finite].numpy(), cells[1])
        refined = [_refine(log_p[joint], int(r), int(c)) for r, c in zip(rows, columns, strict=True)]
        points = rescaled(np.array(refined).reshape(-1, 2), cells, source)
        found.append(np.column_stack([points, scores[finite].double().sigmoid().numpy()]))
    return found


def _refine(log_p: NDArray[np.float64], row: int, column: int) -> tuple[float, float]:
    """(x, y) of the top of the parabola through log p and its neighbours in each axis, at most half a cell away."""

    place = [float(column), float(row)]
    for axis, (middle, line) in enumerate(((column, log_p[row]), (row, log_p[:, column]))):
        if 0 < middle < len(line) - 1:
            before, here, after = line[middle - 1 : middle + 2]
            curvature = before - 2 * here + after
            place[axis] += float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)) if curvature < 0 else 0.0
    return place[0], place[1]
