"""The picture shows the pixels, the features' components and the weights that the method really uses."""

import math

import pytest
import torch

from laparoflow.methods.build import build_method
from laparoflow.methods.settings import MethodSettings
from laparoflow.models import EncoderSettings, build_encoder
from laparoflow.training.frames import FrameBatch
from laparoflow.training.pictures import draw_features, pair_weights, whole_frame
from laparoflow.training.settings import OnlineSettings

PIXELS = [(0.25, 0.5), (0.8, 0.5)]


def method(name="flow"):
    encoder = build_encoder(EncoderSettings("laparoflow_convvit_mini", 32, dim=8, hidden=16, embed_stride=4), seed=0)
    settings = MethodSettings(name)
    settings.flow.flow_kernel = "gaussian"
    return build_method(encoder, settings).eval()


def batch():
    """The left half of the frame moves to the right, the right half down; the lowest rows are not trusted."""
    flow = torch.zeros(2, 2, 34, 48)
    flow[:, 0, :, :24], flow[:, 1, :, 24:] = 4.0, 4.0
    valid = torch.ones(2, 34, 48, dtype=torch.bool)
    valid[:, 24:] = False
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 200, (2, 3, 34, 48), generator=generator, dtype=torch.uint8)
    zeros = torch.zeros(2, dtype=torch.long)
    return FrameBatch(image, flow, valid, torch.arange(2), zeros, zeros)


@pytest.mark.parametrize("name", ["flow", "densecl"])
def test_what_moves_together_is_white(name):
    weights = pair_weights(method(name), whole_frame(batch(), 0, 4), PIXELS)
    assert weights.shape == (2, 8, 12)
    left, right = weights
    assert (left[:5, :5] > 0.99).all()
    assert (right[:5, 7:] > 0.99).all()
    # the spread is 4 pixels, the motions are 4 sqrt 2 apart; a method without weights is drawn with the usual top-hat
    apart = math.exp(-((2**0.5 / 0.7) ** 2) / 2) if name == "flow" else 0.0
    assert torch.allclose(left[:5, 7:], torch.tensor(apart), rtol=1e-3)
    assert torch.allclose(right[:5, :5], torch.tensor(apart), rtol=1e-3)
    assert (weights[:, 6:] == 0).all()


def test_coordinate_weights_are_near_the_pixel_only():
    weights = pair_weights(method("coordinates"), whole_frame(batch(), 0, 4), [(0.5, 0.3)])[0]
    assert weights[2, 6] == 1
    assert 1 <= weights.count_nonzero() < 9


def test_the_picture_has_all_parts_and_marks_the_pixels():
    picture = draw_features(method(), batch(), PIXELS)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 32, 48 * 4)
    assert picture[:, 16, 12].tolist() == [255, 255, 0]
    assert picture[:, 16, 38].tolist() == [255, 255, 0]
    assert picture[:, 4, 96 + 4].tolist() == [255] * 3
    assert picture[:, 4, 96 + 40].tolist() == [33] * 3


def test_pixels_are_shares():
    with pytest.raises(ValueError, match="pixels"):
        OnlineSettings(pixels=[(0.5, 1.5)])
