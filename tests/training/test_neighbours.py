import cv2
import numpy as np
import pytest
import torch

from laparoflow.methods.build import build_method
from laparoflow.methods.settings import MethodSettings
from laparoflow.models.encoder import EncoderSettings, build_encoder
from laparoflow.training.frames import CachedFrames, StepSampler, collate
from laparoflow.training.neighbours import neighbour_position
from laparoflow.training.pairs import near_view, two_views
from laparoflow.video.cache import CachedFrame
from laparoflow.views.geometry import GeometrySettings
from laparoflow.views.sampling import sample_image
from laparoflow.views.settings import ViewSettings
from laparoflow.views.two_views import TwoViews

SHIFT = 3  # pixels a frame to the right


class Clips(list):
    """A cache of two clips, of 4 frames and of 1; all show one texture that moves by SHIFT."""

    ranges = (range(4), range(4, 5))


@pytest.fixture(scope="module")
def frames():
    noise = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 2.0)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    still, valid = np.zeros((2, 48, 64), np.float32), np.ones((48, 64), bool)
    pictures = [np.ascontiguousarray(texture[:, 16 - SHIFT * i : 80 - SHIFT * i]) for i in range(5)]
    clips = Clips(CachedFrame(image, still, valid, int(i == 4), i, i / 25, 1) for i, image in enumerate(pictures))
    return CachedFrames(clips, neighbours=True)


def small_encoder():
    return build_encoder(EncoderSettings("laparoflow_convvit_mini_window", image_size=32, dim=8, hidden=16), seed=0)


def batch_of(frames, indices, number=0):
    return collate(frames.__getitems__([(index, number) for index in indices]))


def test_a_neighbour_is_next_to_its_frame_and_never_of_another_clip():
    assert [neighbour_position(i, range(2, 5), after=True) for i in (2, 3, 4)] == [3, 4, 3]
    assert [neighbour_position(i, range(2, 5), after=False) for i in (2, 3, 4)] == [3, 2, 3]
    assert neighbour_position(7, range(7, 8), after=True) == 7


def test_every_second_frame_has_a_neighbour_and_flow_leads_to_it(frames):
    batch = batch_of(frames, [1, 2, 4, 3, 0])
    near = batch.near
    assert near.row.tolist() == [0, 2, 4]
    assert near.image.dtype == torch.uint8 and near.image.shape == (3, 3, 48, 64)
    shift = near.flow[:, 0, 12:36, 16:48].mean((1, 2))
    assert abs(float(shift[1])) < 0.1, "a clip of one frame is its own neighbour"
    for row in (0, 2):
        assert abs(abs(float(shift[row])) - SHIFT) < 0.3
    assert near.trusted[:, 12:36, 16:48].float().mean() > 0.9
    assert float(shift[2]) > 0, "the first frame has but the second"


def test_both_sides_are_drawn_and_the_same_batch_again_draws_the_same(frames):
    sides = {float(batch_of(frames, [1], number).near.flow[0, 0].mean()) > 0 for number in range(12)}
    assert sides == {True, False}
    one, two = (batch_of(frames, [1, 2], 5).near for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_loader_gives_batches_with_neighbours_and_without(frames):
    for asked in (True, False):
        data = CachedFrames(frames.cache, neighbours=asked)
        loader = torch.utils.data.DataLoader(data, batch_sampler=StepSampler(5, 4, 0, 2, seed=0), collate_fn=collate)
        for batch in loader:
            assert batch.image.shape == (4, 3, 48, 64)
            assert (batch.near is not None) == asked


def test_where_the_first_view_has_gone_the_neighbour_shows_the_same(frames):
    batch = batch_of(frames, [1, 0, 2])
    views = TwoViews(ViewSettings((32, 32), GeometrySettings(scale=(0.2, 0.5))))
    first, _ = two_views(batch, views, 4, (3,))
    near = near_view(batch, first, views, 4, (3,))
    again = near_view(batch, first, views, 4, (3,))
    assert torch.equal(near.image, again.image) and torch.equal(near.row, batch.near.row)
    here = sample_image(batch.image[near.row].float(), first.grid[near.row])
    there = sample_image(batch.near.image.float(), near.moved)
    unmoved = sample_image(batch.near.image.float(), first.grid[near.row])
    trusted = near.trusted[:, None].expand_as(here)
    assert trusted.float().mean() > 0.5
    assert (here - there)[trusted].abs().mean() < 0.25 * (here - unmoved)[trusted].abs().mean()


@pytest.mark.parametrize("name", ["flow", "coordinates"])
def test_the_loss_adds_the_weighted_neighbour_term(frames, name):
    batch = batch_of(frames, [1, 0, 2, 3])
    views = TwoViews(ViewSettings((32, 32)))
    first, second = two_views(batch, views, 4, (3,))
    near = near_view(batch, first, views, 4, (3,))
    values = {}
    for weight in (0.0, 0.3):
        settings = MethodSettings(name=name)
        getattr(settings, name).contrast.neighbour_weight = weight
        method = build_method(small_encoder(), settings)
        assert method.neighbours == (weight > 0)
        output = method(first, second, near if weight else None)
        values[weight] = output
    extra = values[0.3].logs["neighbour_loss"]
    assert extra > 0 and 0 < values[0.3].logs["neighbour_valid"] <= 1
    torch.testing.assert_close(values[0.3].loss, values[0.0].loss + 0.3 * extra)


@pytest.mark.parametrize("guide", ["flow", "shuffled", "uniform", "coordinates"])
def test_no_control_learns_of_the_flow_to_the_neighbour(frames, guide):
    batch = batch_of(frames, [1, 0, 2, 3])
    views = TwoViews(ViewSettings((32, 32)))
    first, second = two_views(batch, views, 4, (3,))
    near = near_view(batch, first, views, 4, (3,))
    settings = MethodSettings(name="coordinates" if guide == "coordinates" else "flow")
    if guide != "coordinates":
        settings.flow.guide = guide
    settings.flow.contrast.neighbour_weight = 0.3
    settings.flow.contrast.positives = "outside"
    method = build_method(small_encoder(), settings).eval()
    elsewhere = near._replace(moved=near.moved + 9.0)
    with torch.no_grad():
        known = method(first, second, near).loss != method(first, second, elsewhere).loss
    assert known == (guide == "flow")


def test_a_negative_weight_is_refused():
    settings = MethodSettings()
    settings.flow.contrast.neighbour_weight = -1.0
    with pytest.raises(ValueError, match="neighbour_weight"):
        build_method(small_encoder(), settings)
