"""Pictures: sizes, colours, directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from laparoflow.datasets import IGNORE_INDEX
from laparoflow.report.pictures import beside, flow_picture, overlay, palette, pca_pictures, shrink


def test_palette_tells_all_classes_apart() -> None:
    colours = palette(19)[:19].astype(int)
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(19, dtype=int)
    assert distance.min() > 25
    assert (palette(19)[IGNORE_INDEX] == 0).all()


def test_overlay_keeps_the_picture_visible() -> None:
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0] = 200
    painted = overlay(image, np.ones((2, 2), dtype=np.int64), 3)
    assert (painted[0].astype(int) - painted[1].astype(int) == 90).all()


def test_equal_features_get_equal_colours_across_pictures() -> None:
    basis = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[0, 1, 2, 0]], [[2, 2, 1, 0]]])
    pictures = pca_pictures(basis[labels].permute(0, 3, 1, 2), longest=4)
    assert (pictures[0][0, 2] == pictures[1][0, 0]).all()
    assert (pictures[0][0, 1] == pictures[1][0, 2]).all()
    assert not (pictures[0][0, 0] == pictures[0][0, 1]).all()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pca_of_few_channels_and_of_constants(channels: int) -> None:
    pictures = pca_pictures(torch.ones(1, channels, 3, 4), longest=8)
    assert pictures[0].shape == (6, 8, 3)


def test_flow_directions_and_left_out_pixels() -> None:
    flow = np.zeros((2, 1, 4), dtype=np.float32)
    flow[:, 0, 0], flow[:, 0, 1], flow[:, 0, 3] = (5, 0), (-5, 0), (np.nan, np.nan)
    picture = flow_picture(flow, 5.0, np.array([[True, True, True, False]]))
    assert picture[0, 0].tolist() == [255, 0, 0]
    assert picture[0, 1].tolist() == [0, 255, 255]
    assert picture[0, 2].tolist() == [255, 255, 255]
    assert picture[0, 3].tolist() == [0, 0, 0]


def test_beside_and_shrink() -> None:
    sheet = beside([np.zeros((4, 5, 3), dtype=np.uint8), np.zeros((2, 3, 3), dtype=np.uint8)])
    assert sheet.shape == (4, 12, 3)
    assert (sheet[3, 9:] == 255).all()
    assert shrink(np.zeros((100, 1024, 3), dtype=np.uint8)).shape == (50, 512, 3)
    with pytest.raises(ValueError, match="empty"):
        beside([])
