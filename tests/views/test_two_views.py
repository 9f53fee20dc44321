"""Two views: image and grid agree, masks are honest, everything follows from (seed, epoch, index)."""

from __future__ import annotations

import pytest
import torch

from laparoflow.views.settings import GeometrySettings, PhotometricSettings, ViewSettings
from laparoflow.views.two_views import TwoViews
from tests.views.generators import step_generator

PLAIN = PhotometricSettings(jitter=0.0, grey=0.0, blur=0.0)


def coordinate_images(batch: int = 3, height: int = 50, width: int = 70) -> torch.Tensor:
    """Images whose red and green are their own x and y."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)]).expand(batch, -1, -1, -1).contiguous()


def test_the_image_shows_what_the_grid_says():
    images = coordinate_images()
    settings = ViewSettings((32, 40), GeometrySettings(rotation=60, perspective=0.3, elastic=0.02), PLAIN)
    for view in TwoViews(settings)(images, torch.ones(3, 50, 70, dtype=torch.bool), step_generator(0, 0, 0)):
        assert view.image.shape == (3, 3, 32, 40)
        assert view.grid.shape == (3, 32, 40, 2)
        assert view.grid.dtype == torch.float32
        assert view.inside.dtype == torch.bool
        assert 0.3 < view.inside.float().mean() < 1.0
        assert (view.image[:, 0] * 70 - view.grid[..., 0])[view.inside].abs().max() < 1e-2
        assert (view.image[:, 1] * 50 - view.grid[..., 1])[view.inside].abs().max() < 1e-2
        outside = (view.grid < -1).any(-1) | (view.grid[..., 0] > 70) | (view.grid[..., 1] > 50)
        assert not view.inside[outside].any()
        assert not view.image.permute(0, 2, 3, 1)[outside].any()


def test_views_that_shrink_do_not_alias():
    """A checkerboard of single pixels is grey from afar; a ramp stays the ramp that the grid says."""
    still = GeometrySettings((1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    board = ((torch.arange(128)[:, None] + torch.arange(128)) % 2).float().expand(2, 3, -1, -1)
    valid = torch.ones(2, 128, 128, dtype=torch.bool)
    for size in (64, 50, 32, 16):
        view, _ = TwoViews(ViewSettings((size, size), still, PLAIN))(board, valid, step_generator(0, 0, 0))
        assert (view.image[:, :, 1:-1, 1:-1] - 0.5).abs().max() < 0.26, size
    ramps = coordinate_images(4, 256, 320)
    settings = ViewSettings((40, 40), GeometrySettings(rotation=40, scale=(0.02, 1.0)), PLAIN)
    view, _ = TwoViews(settings)(ramps, torch.ones(4, 256, 320, dtype=torch.bool), step_generator(0, 0, 1))
    deep = view.inside & (view.grid > 8).all(-1) & (view.grid[..., 0] < 311) & (view.grid[..., 1] < 247)
    assert deep.flatten(1).any(1).all()
    assert (view.image[:, 0] * 320 - view.grid[..., 0])[deep].abs().max() < 1e-2
    assert (view.image[:, 1] * 256 - view.grid[..., 1])[deep].abs().max() < 1e-2


def test_half_precision_images_are_sampled_at_exact_places():
    images = coordinate_images(2, 200, 300)
    views, valid = TwoViews(ViewSettings((32, 32), photometric=PLAIN)), torch.ones(2, 200, 300, dtype=torch.bool)
    exact, _ = views(images, valid, step_generator(0, 0, 0))
    half, _ = views(images.bfloat16(), valid, step_generator(0, 0, 0))
    assert half.image.dtype == torch.bfloat16
    assert half.grid.dtype == torch.float32
    assert (half.image.float() - exact.image)[:, :, 1:-1, 1:-1].abs().max() < 0.01


def test_invalid_source_pixels_are_not_inside():
    valid = torch.ones(3, 50, 70, dtype=torch.bool)
    valid[:, :, 35:] = False
    for view in TwoViews(ViewSettings((32, 32)))(coordinate_images(), valid, step_generator(0, 0, 0)):
        assert view.inside.any()
        assert (view.grid[..., 0][view.inside] < 34.01).all()


def test_a_step_follows_from_seed_epoch_and_index():
    views, images = TwoViews(ViewSettings((24, 24))), coordinate_images()
    valid = torch.ones(3, 50, 70, dtype=torch.bool)

    def step(*key: int) -> torch.Tensor:
        first, second = views(images, valid, step_generator(*key))
        return torch.cat([first.image, second.image])

    reference = step(1, 2, 3)
    torch.manual_seed(99)
    assert torch.equal(step(1, 2, 3), reference)
    for other in ((0, 2, 3), (1, 3, 3), (1, 2, 4), (12, 3, 0), (1, 23, 0)):
        assert not torch.equal(step(*other), reference)
    assert not torch.equal(reference[:3], reference[3:])


def test_wrong_input_is_named():
    views = TwoViews()
    good = torch.ones(2, 20, 20, dtype=torch.bool)
    with pytest.raises(ValueError, match="images"):
        views(torch.rand(2, 1, 20, 20), good)
    with pytest.raises(TypeError, match="floating"):
        views(torch.zeros(2, 3, 20, 20, dtype=torch.uint8), good)
    with pytest.raises(ValueError, match="valid"):
        views(torch.rand(2, 3, 20, 24), good)
    with pytest.raises(ValueError, match="size"):
        ViewSettings((0, 4))
