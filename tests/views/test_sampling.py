"""Sampling at source coordinates: exact on functions it can represent, masks that never let an invalid pixel in."""

from __future__ import annotations

import pytest
import torch

from laparoflow.views.geometry import draw_transform
from laparoflow.views.sampling import cell_grid, sample_flow, sample_image, sample_mask
from laparoflow.views.settings import GeometrySettings
from laparoflow_kernels import pairwise_flow_weights
from tests.views.generators import step_generator

SOURCE, VIEW = (60, 84), (48, 48)


def some_grid(batch: int = 4, **change) -> torch.Tensor:
    return draw_transform(GeometrySettings(**change), batch, SOURCE, VIEW, step_generator(0, 0, 1)).grid(*VIEW)


def ramp(batch: int = 4) -> torch.Tensor:
    """A flow that is linear in the coordinates, float64 [B, 2, H, W]."""
    y, x = torch.meshgrid(torch.arange(SOURCE[0]).double(), torch.arange(SOURCE[1]).double(), indexing="ij")
    return torch.stack([0.1 * x - 0.02 * y + 3, 0.05 * y - 0.03 * x - 1]).expand(batch, -1, -1, -1)


def test_flow_is_read_where_the_pixel_comes_from_and_not_turned():
    """A linear field is sampled exactly whatever the view's rotation, flip and tilt; the vector keeps its axes."""
    grid = some_grid(rotation=180.0, perspective=0.4, elastic=0.02, vertical_flip=0.5)
    inside = sample_mask(torch.ones(4, *SOURCE, dtype=torch.bool), grid)
    x, y = grid[..., 0], grid[..., 1]
    expected = torch.stack([0.1 * x - 0.02 * y + 3, 0.05 * y - 0.03 * x - 1], 1)
    sampled = sample_flow(ramp(), grid)
    where = inside[:, None].expand_as(expected)
    assert inside.float().mean() > 0.4
    # neighbours of weight below a thousandth are left out: at most 1e-3 of the largest value, 8
    assert (sampled - expected)[where].abs().max() < 0.02
    assert (sampled - expected)[where].abs().median() < 1e-9


def test_whole_coordinates_give_back_the_values():
    generator = torch.Generator().manual_seed(0)
    flow = torch.randn(2, 2, 9, 11, generator=generator)
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    grid = torch.stack([x, y], -1).expand(2, -1, -1, -1)
    assert torch.equal(sample_flow(flow, grid), flow)
    assert torch.allclose(sample_image(flow, grid), flow, atol=1e-5)
    valid = torch.rand(2, 9, 11, generator=generator) > 0.5
    assert torch.equal(sample_mask(valid, grid), valid)


def test_nan_in_the_flow_shows_only_where_it_is_read():
    flow = torch.zeros(1, 2, 5, 5)
    flow[:, :, 2, 2] = float("nan")
    grid = torch.tensor([[[[1.0, 2.0], [1.5, 2.0], [2.0, 2.0], [3.0, 2.0], [3.0, 3.0]]]])
    assert torch.isnan(sample_flow(flow, grid)[0, 0, 0]).tolist() == [False, True, True, False, False]


def test_mask_keeps_only_what_is_valid_and_inside():
    valid = torch.ones(1, 4, 6, dtype=torch.bool)
    valid[0, 1, 2] = False
    points = {
        (0.0, 0.0): True, (5.0, 3.0): True, (5.2, 3.0): False, (-0.2, 1.0): False, (2.0, 1.0): False,
        (2.5, 1.0): False, (1.5, 0.5): False, (3.0, 1.0): True, (2.0, 2.0): True, (float("nan"), 1.0): False,
    }  # fmt: skip
    grid = torch.tensor([[list(points)]])
    assert sample_mask(valid, grid)[0, 0].tolist() == list(points.values())


def test_masked_flow_never_reaches_a_kept_pixel():
    """Poison the flow under the mask: no kept pixel of a view may show it."""
    valid = torch.rand(4, *SOURCE, generator=torch.Generator().manual_seed(1)) > 0.05
    flow = torch.where(valid[:, None], torch.zeros(4, 2, *SOURCE), torch.full((4, 2, *SOURCE), float("nan")))
    grid = some_grid(rotation=90.0)
    kept = sample_mask(valid, grid)
    assert 0.3 < kept.float().mean() < 0.95
    assert torch.isfinite(sample_flow(flow, grid).permute(0, 2, 3, 1)[kept]).all()


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 16])
def test_cell_centres_are_exact_for_affine_views(stride):
    drawn = draw_transform(GeometrySettings(perspective=0.0, elastic=0.0), 3, SOURCE, VIEW, step_generator(0, 0, 2))
    v, u = torch.meshgrid(torch.arange(0, 48, stride).double(), torch.arange(0, 48, stride).double(), indexing="ij")
    centres = torch.stack([u, v], -1).reshape(1, -1, 2) + (stride - 1) / 2
    expected = drawn.to_source(centres.expand(3, -1, -1)).reshape(3, 48 // stride, 48 // stride, 2)
    assert torch.allclose(cell_grid(drawn.grid(*VIEW), stride), expected, atol=1e-9)


def test_cell_centres_of_bent_views_are_near():
    drawn = draw_transform(GeometrySettings(perspective=0.3, elastic=0.02), 3, SOURCE, VIEW, step_generator(0, 0, 2))
    v, u = torch.meshgrid(torch.arange(0, 48, 8).double(), torch.arange(0, 48, 8).double(), indexing="ij")
    centres = torch.stack([u, v], -1).reshape(1, -1, 2) + 3.5
    expected = drawn.to_source(centres.expand(3, -1, -1)).reshape(3, 6, 6, 2)
    assert (cell_grid(drawn.grid(*VIEW), 8) - expected).abs().max() < 0.02


@pytest.mark.parametrize("turn", ["rotate", "flip", "both"])
def test_pair_weights_do_not_change_when_a_view_is_turned(turn):
    """Turning a view permutes its pixels; the weight of each pair of source pixels stays what it was."""
    flow = torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(3)) * 2
    y, x = torch.meshgrid(torch.arange(4.0, 28.0, 3), torch.arange(4.0, 28.0, 3), indexing="ij")
    grid = torch.stack([x, y], -1).expand(2, -1, -1, -1) + 0.3
    turned = torch.rot90(grid, 1, (1, 2)) if turn in ("rotate", "both") else grid
    turned = turned.flip(2) if turn in ("flip", "both") else turned
    numbers = torch.arange(64).reshape(1, 8, 8)
    order = torch.rot90(numbers, 1, (1, 2)) if turn in ("rotate", "both") else numbers
    order = (order.flip(2) if turn in ("flip", "both") else order).reshape(-1)

    def rows(where: torch.Tensor) -> torch.Tensor:
        return sample_flow(flow, where).flatten(2).transpose(1, 2)

    plain = pairwise_flow_weights(rows(grid), rows(grid), bandwidth=1.0)
    assert plain.std() > 0.1
    assert torch.allclose(pairwise_flow_weights(rows(turned), rows(grid), bandwidth=1.0), plain[:, order], atol=1e-6)


def test_wrong_shapes_and_types_are_named():
    grid = torch.zeros(2, 3, 3, 2)
    with pytest.raises(ValueError, match="grid"):
        sample_flow(torch.zeros(1, 2, 4, 4), grid)
    with pytest.raises(ValueError, match="valid"):
        sample_mask(torch.ones(2, 1, 4, 4, dtype=torch.bool), grid)
    with pytest.raises(TypeError, match="bool"):
        sample_mask(torch.ones(2, 4, 4), grid)
    with pytest.raises(ValueError, match="stride"):
        cell_grid(grid, 2)
