import pytest
import torch

from laparoflow_kernels import FlowInfoNCELoss, flow_infonce, robust_flow_spread


def test_a_small_object_before_a_still_background_counts():
    flow = torch.zeros(1, 2, 20, 20)
    flow[:, 0, :10, :8] = 3.0  # 20 percent of the frame
    spread = robust_flow_spread(flow, torch.ones(1, 20, 20, dtype=torch.bool), floor=0.0)
    assert spread.item() == pytest.approx(3 * 0.2**0.5, rel=0.05)


def test_common_motion_does_not_count():
    flow = torch.full((1, 2, 8, 8), 7.0)
    assert robust_flow_spread(flow, torch.ones(1, 8, 8, dtype=torch.bool), floor=0.0).item() == 0


def test_wild_vectors_and_masked_ones_do_not_count():
    torch.manual_seed(0)
    flow = torch.randn(1, 2, 40, 40)
    valid = torch.ones(1, 40, 40, dtype=torch.bool)
    calm = robust_flow_spread(flow, valid, floor=0.0)
    wild = flow.clone()
    wild[0, :, 0, :20] = 500.0  # 1.25 percent
    assert robust_flow_spread(wild, valid, floor=0.0).item() == pytest.approx(calm.item(), rel=0.1)
    wild[0, :, :10] = torch.nan
    valid[0, :10] = False
    assert robust_flow_spread(wild, valid, floor=0.0).item() == pytest.approx(calm.item(), rel=0.1)


@pytest.mark.parametrize("pixels", [1, 2, 50, 51, 52, 101, 997])
def test_the_trimmed_share_is_that_of_the_quantile(pixels: int) -> None:
    flow = torch.randn(3, pixels, 2, generator=torch.Generator().manual_seed(pixels), dtype=torch.float64)
    kept = torch.ones(3, pixels, dtype=torch.bool)
    kept[1, : pixels // 3], kept[2] = False, False
    for one, keep, spread in zip(flow, kept, robust_flow_spread(flow, kept, floor=0.0), strict=True):
        squares = (one[keep] - one[keep].nanmedian(0).values).square().sum(1) if keep.any() else one.new_zeros(1)
        expected = squares[squares <= squares.quantile(0.98)].mean().sqrt()
        torch.testing.assert_close(spread, expected)


def test_nothing_trusted_is_no_motion():
    spread = robust_flow_spread(torch.ones(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool), floor=0.0)
    assert spread.tolist() == [[0.0], [0.0]]


def test_a_few_kept_pixels_of_a_large_frame_are_found():
    generator = torch.Generator().manual_seed(0)
    flow = torch.full((2, 2, 200, 300), torch.nan)
    kept = torch.zeros(2, 200, 300, dtype=torch.bool)
    kept[:, 1::14, 1::14] = True  # none of them on any coarser lattice from the corner
    values = torch.randn(2, 2, int(kept[0].sum()), generator=generator) * 5
    flow[kept[:, None].expand_as(flow)] = values.flatten()
    torch.testing.assert_close(robust_flow_spread(flow, kept), robust_flow_spread(values.transpose(1, 2))[:, None])


def test_a_share_of_many_kept_pixels_stands_for_all():
    flow = torch.randn(1, 2, 200, 300, generator=torch.Generator().manual_seed(0))
    kept = torch.ones(1, 200, 300, dtype=torch.bool)
    kept[:, :, 250:] = False
    flow[:, :, :, 250:] = torch.nan
    assert robust_flow_spread(flow, kept).item() == pytest.approx(1.35, abs=0.05)  # sqrt(2), less the trimmed 2 percent


def test_gaps_have_a_spread_each():
    flow = torch.randn(2, 4, 16, 16)
    valid = torch.rand(2, 16, 16) > 0.2
    apart = [robust_flow_spread(flow[:, place : place + 2], valid, floor=0.0) for place in (0, 2)]
    torch.testing.assert_close(robust_flow_spread(flow, valid, floor=0.0), torch.cat(apart, 1))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"flow: expected \[B, 2 G, H, W\]"):
        robust_flow_spread(torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), floor=0.0)
    with pytest.raises(ValueError, match="mask: expected"):
        robust_flow_spread(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 5, dtype=torch.bool))


@pytest.mark.parametrize("offset", [1e6, 1e9])
def test_float64_flow_beside_a_large_offset_is_measured_in_float64(offset):
    generator = torch.Generator().manual_seed(0)
    flow = torch.randn(2, 2, 16, 16, generator=generator, dtype=torch.float64)
    shifted = robust_flow_spread(flow + offset, floor=0.0)
    assert shifted.dtype == torch.float64
    torch.testing.assert_close(shifted, robust_flow_spread(flow, floor=0.0), rtol=1e-5, atol=0)


def test_pixels_in_a_row_and_maps_have_the_same_spread():
    flow, mask = torch.randn(2, 2, 9, 7), torch.rand(2, 9, 7) > 0.3
    flow[~mask[:, None].expand_as(flow)] = torch.nan
    rows = robust_flow_spread(flow.flatten(2).transpose(1, 2), mask.flatten(1))
    torch.testing.assert_close(robust_flow_spread(flow, mask), rows[:, None])


def test_automatic_bandwidth_sees_a_small_object_before_a_still_background():
    q, k = (torch.nn.functional.normalize(torch.randn(1, 400, 8), dim=-1) for _ in range(2))
    flow = torch.zeros(1, 400, 2)
    flow[:, :80, 0] = 3.0
    automatic = FlowInfoNCELoss(bandwidth="auto")(q, k, flow, flow)
    torch.testing.assert_close(automatic, flow_infonce(q, k, flow, flow, bandwidth=3 * 0.2**0.5))


@pytest.mark.parametrize("sizes", [((30, 30), (20, 50)), ((10, 40), (25, 25)), ((12, 12), (20, 20))])
def test_automatic_bandwidth_of_a_list_is_that_of_each_frame_alone(sizes):
    generator = torch.Generator().manual_seed(0)
    sides = [[torch.randn(n, width, generator=generator) for n in side] for width in (8, 2) for side in sizes]
    masks = [[torch.rand(n, generator=generator) > 0.3 for n in side] for side in sizes]
    loss = FlowInfoNCELoss(bandwidth="auto", reduction="none", warn_share=None)
    for found, *frame in zip(loss(*sides, *masks), *sides, *masks, strict=True):
        torch.testing.assert_close(found, loss(*(x[None] for x in frame))[0])
