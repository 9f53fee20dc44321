"""Pictures: sizes, colours, directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.utils import flow_to_image

from laparoflow.datasets.samples import IGNORE_INDEX
from laparoflow.report.pictures import beside, keypoint_picture, overlay, palette, pca_pictures, shrink
from laparoflow.video.pictures import flow_picture, flow_wheel, full_length


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
    flow[:, 0, 0], flow[:, 0, 1], flow[:, 0, 3] = (5, 0), (-50, 0), (np.nan, np.nan)
    picture = flow_picture(flow, 5.0, np.array([[True, True, True, False]]))
    wheel = flow_wheel(101)
    assert picture[0, 0].tolist() == wheel[50, -1].tolist()
    assert picture[0, 1].tolist() == wheel[50, 0].tolist()  # longer than the full length: as that
    assert picture[0, 2].tolist() == [255, 255, 255]
    assert picture[0, 3].tolist() == [0, 0, 0]
    half = flow_picture(flow / 2, 5.0)[0, 0].astype(int)
    assert np.abs(half - wheel[50, 75]).max() <= 3
    assert full_length(flow[:, :, :2]) == pytest.approx(49.55)


def test_colours_are_those_of_torchvision() -> None:
    flow = np.random.default_rng(0).normal(size=(2, 9, 7)).astype(np.float32)
    longest = float(np.hypot(*flow).max())
    assert (flow_picture(flow, longest) == flow_to_image(torch.from_numpy(flow)).permute(1, 2, 0).numpy()).all()


def test_key_points_stand_in_circles_of_the_radius_that_counts() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = keypoint_picture(image, np.array([[[40.0, 30.0, 2.0]]]), [np.array([[70.0, 50.0, 1.0]])])
    ring = np.argwhere((drawn > 100).all(-1))
    distances = np.linalg.norm(ring - [30, 40], axis=1)
    assert abs(distances.max() - 5) < 1  # 5 % of a diagonal of 100
    assert drawn[50, 70, 0] > drawn[50, 70, 1]


def test_beside_and_shrink() -> None:
    sheet = beside([np.zeros((4, 5, 3), dtype=np.uint8), np.zeros((2, 3, 3), dtype=np.uint8)])
    assert sheet.shape == (4, 12, 3)
    assert (sheet[3, 9:] == 255).all()
    assert shrink(np.zeros((100, 1024, 3), dtype=np.uint8)).shape == (50, 512, 3)
    with pytest.raises(ValueError, match="empty"):
        beside([])
