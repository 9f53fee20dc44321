"""Frozen features of labelled pictures, computed once.

A picture [H, W, 3] is resized to the probe's size, the backbone gives [C, h, w] with h = height / stride. Cells and
pixels: with pixel centres at integers, cell c has its centre at (c + 0.5) * stride - 0.5 of the resized picture, and
x of the resized picture is (x_source + 0.5) * width / W - 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from laparoflow.datasets.samples import FrameDataset

SMALLEST_LONG_SIDE = 256
CELLS_ALONG_LONG_SIDE = 32
MOST_FLOAT32 = 2**30
"""Numbers of a feature cache that are kept as float32."""


class FeatureEncoder(Protocol):
    """What a probe needs of a backbone: `laparoflow.models.PixelEncoder` has it."""

    feature_dim: int
    feature_stride: int

    def features(self, images: Tensor) -> Tensor:
        """RGB 0..1 [B, 3, H, W] -> [B, C, H / stride, W / stride]."""


def probe_size(source: tuple[int, int], stride: int, asked: tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) that pictures are resized to, multiples of the features' stride.

    That is what is asked for, or the shape of the source (height, width) with the longer side at most max(256, 32 strides).
    """
    if asked is not None:
        if asked[0] % stride or asked[1] % stride:
            raise ValueError(f"image_size must be multiples of the backbone's stride {stride}, got {tuple(asked)}")
        return int(asked[0]), int(asked[1])
    longest = max(SMALLEST_LONG_SIDE, CELLS_ALONG_LONG_SIDE * stride)
    scale = min(1.0, longest / max(source))
    height, width = (max(stride, round(side * scale / stride) * stride) for side in source)
    return height, width


def to_input(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """RGB uint8 [H, W, 3] -> float 0..1 [3, height, width], resized with antialiasing."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    if tuple(tensor.shape[1:]) == size:
        return tensor
    resized = F.interpolate(tensor[None], size=size, mode="bilinear", antialias=True, align_corners=False)
    return resized[0].clamp(0, 1)


@torch.no_grad()
def feature_batches(
    encoder: FeatureEncoder, dataset: FrameDataset[Any], size: tuple[int, int], batch_size: int, device: str
) -> Iterator[tuple[list[Any], Tensor]]:
    """Samples and their features, batch by batch: yields (samples, features [B, C, h, w] on the device)."""
    for start in range(0, len(dataset), batch_size):
        samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        images = torch.stack([to_input(sample.image, size) for sample in samples]).to(device)
        yield samples, encoder.features(images).float()


def collect_features(
    encoder: FeatureEncoder,
    dataset: FrameDataset[Any],
    size: tuple[int, int],
    batch_size: int,
    device: str,
    target: Callable[[Any], Tensor],
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Tensor, Tensor]:
    """Features [n, C, h, w] and training targets [n, ...] of a whole data set, on the CPU.

    Features are float32, or float16 when they would take more than 4 GiB as float32. ``target`` makes the target of one
    sample; ``advance`` is told the number of pictures done.
    """
    features = torch.empty(0)
    targets: list[Tensor] = []
    for samples, batch in feature_batches(encoder, dataset, size, batch_size, device):
        if not targets:
            count = len(dataset) * batch[0].numel()
            kept = torch.float32 if count <= MOST_FLOAT32 else torch.float16
            features = torch.empty((len(dataset), *batch.shape[1:]), dtype=kept)
        features[len(targets) : len(targets) + len(samples)] = batch.to("cpu", kept)
        targets += [target(sample) for sample in samples]
        advance(len(samples))
    return features, torch.stack(targets)


def colour_and_place(images: Tensor, stride: int = 4) -> dict[str, Tensor]:
    """Features without a network, Lab colour and place: RGB 0..1 [B, 3, H, W] -> {"both": [B, 5, H / s, W / s]}."""
    pictures = (images.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    lab = np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2LAB) for picture in pictures]).astype(np.float32) / 255
    colours = F.avg_pool2d(torch.from_numpy(lab).permute(0, 3, 1, 2), stride)
    height, width = colours.shape[2:]
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return {"both": torch.cat([colours, torch.stack([columns, rows]).expand(len(images), 2, height, width)], 1)}


def grid_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(h, w) of the feature map of a picture of this size."""
    return size[0] // stride, size[1] // stride
