"""The map from view to source pixels: exact, invertible, repeatable."""

from __future__ import annotations

import pytest
import torch

from laparoflow.views.geometry import draw_transform
from laparoflow.views.settings import GeometrySettings
from tests.views.generators import step_generator

STILL = {
    "scale": (1.0, 1.0), "aspect": (1.0, 1.0), "flip": 0.0, "vertical_flip": 0.0,
    "rotation": 0.0, "shear": 0.0, "perspective": 0.0, "elastic": 0.0,
}  # fmt: skip
ALONE = {
    "crop": {"scale": (0.1, 0.9), "aspect": (0.5, 2.0)},
    "flip": {"flip": 1.0},
    "vertical_flip": {"vertical_flip": 1.0},
    "rotation": {"rotation": 180.0},
    "shear": {"shear": 45.0},
    "perspective": {"perspective": 0.45},
    "elastic": {"elastic": 0.028},
}
COMPOSED = {key: value for change in ALONE.values() for key, value in change.items()}
CASES = {**ALONE, "composed": COMPOSED}


def pixels(height: int, width: int) -> torch.Tensor:
    v, u = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return torch.stack([u, v], -1)


def transform(change: dict, source=(180, 320), view=(96, 128), batch=6, seed=0):
    return draw_transform(GeometrySettings(**{**STILL, **change}), batch, source, view, step_generator(seed, 0, 0))


def to_view(drawn, points):
    """View points of source points [B, P, 2]; the elastic part by a contracting iteration."""
    ones = torch.ones_like(points[..., :1]).double()
    mapped = torch.cat([points.double(), ones], -1) @ torch.linalg.inv(drawn.matrix).transpose(1, 2)
    target = result = mapped[..., :2] / mapped[..., 2:]
    for _ in range(60):
        result = target - drawn._elastic(result)
    return result


@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_below_a_thousandth_of_a_pixel(name):
    """View pixel to source (the float32 grid that views carry) and back; also when the frame is large."""
    for source in ((180, 320), (1080, 1920)):
        drawn = transform(CASES[name], source)
        grid = drawn.grid(96, 128).float()
        back = to_view(drawn, grid.reshape(6, -1, 2)).reshape(6, 96, 128, 2)
        assert (back - pixels(96, 128)).abs().max() < 1e-3
        again = drawn.to_source(back.reshape(6, -1, 2)).reshape(grid.shape)
        assert (again - grid).abs().max() < 1e-3


@pytest.mark.parametrize("name", CASES)
def test_every_transform_does_something(name):
    moved = transform(CASES[name]).grid(96, 128) - transform({}).grid(96, 128)
    assert moved.norm(dim=-1).amax(dim=(1, 2)).min() > 0.2


def test_nothing_asked_gives_the_whole_frame_by_pixel_areas():
    grid = transform({}, source=(180, 320), view=(90, 160)).grid(90, 160)
    assert torch.allclose(grid[0], pixels(90, 160) * 2 + 0.5)
    same = transform({}, source=(40, 60), view=(40, 60)).grid(40, 60)
    assert torch.equal(same[0], pixels(40, 60))


@pytest.mark.parametrize("name", CASES)
def test_the_grid_is_the_map_at_every_pixel(name):
    drawn = transform(CASES[name])
    points = pixels(96, 128).reshape(1, -1, 2).expand(6, -1, -1)
    assert torch.allclose(drawn.grid(96, 128).reshape(6, -1, 2), drawn.to_source(points), atol=1e-9)


def test_flips_mirror_the_grid():
    plain = transform({}).grid(96, 128)
    assert torch.allclose(transform({"flip": 1.0}).grid(96, 128), plain.flip(2))
    assert torch.allclose(transform({"vertical_flip": 1.0}).grid(96, 128), plain.flip(1))


def test_crops_stay_inside_and_cover_the_asked_area():
    drawn = transform({"scale": (0.25, 0.25)}, source=(180, 320), view=(90, 160), batch=32)
    grid = drawn.grid(90, 160)
    assert grid.amin() >= 0
    assert (grid.amax(dim=(0, 1, 2)) <= torch.tensor([319.0, 179.0])).all()
    assert torch.allclose(grid[:, 0, 1] - grid[:, 0, 0], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert grid[:, 0, 0, 0].std() > 5  # the crops lie in different places


def test_scale_is_source_pixels_per_view_pixel():
    assert torch.allclose(transform({}, source=(180, 320), view=(90, 160)).scale(90, 160), torch.tensor(2.0).double())
    turned = transform({"rotation": 180.0, "flip": 0.5, "scale": (0.25, 0.25)}, source=(128, 128), view=(64, 64))
    assert torch.allclose(turned.scale(64, 64), torch.tensor(1.0).double())


def test_rotation_keeps_distances():
    grid = transform({"rotation": 180.0, "scale": (0.2, 0.2)}, source=(128, 128), view=(64, 64)).grid(64, 64)
    steps = (grid[:, :, 1:] - grid[:, :, :-1]).norm(dim=-1)
    assert torch.allclose(steps, steps[0, 0, 0].expand_as(steps))


def test_same_generator_same_transform():
    first, again, other = (transform(COMPOSED, seed=s).grid(8, 8) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": (0.0, 1.0)}, {"scale": (0.5, 1.5)}, {"aspect": (2.0, 1.0)}, {"flip": 1.5}, {"rotation": -1.0},
        {"shear": 80.0}, {"perspective": 0.6}, {"elastic": 0.1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        GeometrySettings(**change)
