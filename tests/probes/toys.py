"""A data set and backbones for which the right scores are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laparoflow.datasets.samples import (
    IGNORE_INDEX,
    Frame,
    KeypointDataset,
    KeypointSample,
    SegmentationDataset,
    SegmentationSample,
)

HEIGHT, WIDTH = 32, 48
COLOURS = np.array([[40, 40, 40], [200, 60, 60], [60, 200, 60]], dtype=np.uint8)


class ColourEncoder(nn.Module):
    """Features are the mean colour of each cell, with its squares: enough for linear heads on these data."""

    feature_dim = 6
    feature_stride = 4

    def features(self, images: Tensor) -> Tensor:
        cells = F.avg_pool2d(images, self.feature_stride)
        return torch.cat([cells, cells**2], dim=1)


class BlindEncoder(ColourEncoder):
    """Features that do not depend on the picture."""

    def features(self, images: Tensor) -> Tensor:
        return torch.zeros_like(super().features(images))


def _frames(count: int, videos: int) -> list[Frame]:
    return [Frame(Path(str(i)), i, f"v{i % videos}", f"f{i:03d}", i) for i in range(count)]


class Blocks(SegmentationDataset):
    """Blocks of three classes, each of its own colour, with noise and a column that is ignored."""

    name = "blocks"
    classes = ("ground", "red", "green")

    def __init__(self, count: int = 12) -> None:
        super().__init__(_frames(count, 3))

    def read(self, frame: Frame) -> SegmentationSample:
        rng = np.random.default_rng(frame.label)
        mask = np.kron(rng.integers(0, 3, (HEIGHT // 8, WIDTH // 8)), np.ones((8, 8), dtype=np.int64))
        image = np.clip(COLOURS[mask] + rng.normal(0, 5, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
        mask[:, -1] = IGNORE_INDEX
        return SegmentationSample(image, mask, frame.video, frame.name)


class Dots(KeypointDataset):
    """Up to two instruments with a red and a green joint each; the green one is sometimes absent."""

    name = "dots"
    joints = ("red", "green")

    def __init__(self, count: int = 16) -> None:
        super().__init__(_frames(count, 2))

    def read(self, frame: Frame) -> KeypointSample:
        rng = np.random.default_rng(100 + frame.label)
        columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
        image = np.full((HEIGHT, WIDTH, 3), 40.0)
        points = np.zeros((1 + frame.label % 2, 2, 3), dtype=np.float32)
        places = rng.permutation(6)[:4]
        for number, place in enumerate(places[: 2 * len(points)]):
            instrument, joint = divmod(number, 2)
            if joint == 1 and frame.label % 4 == 3:
                continue
            x, y = 8 + 16 * (place % 3) + rng.uniform(-2, 2), 8 + 16 * (place // 3) + rng.uniform(-2, 2)
            points[instrument, joint] = x, y, 2
            glow = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
            image[..., joint] += 200 * glow
        return KeypointSample(np.clip(image, 0, 255).astype(np.uint8), points, frame.video, frame.name)
