import pytest
import torch

from laparoflow.methods.spread import frame_spread


def test_a_small_object_before_a_still_background_counts():
    flow = torch.zeros(1, 2, 20, 20)
    flow[:, 0, :10, :8] = 3.0  # 20 percent of the frame
    spread = frame_spread(flow, torch.ones(1, 20, 20, dtype=torch.bool))
    assert spread.item() == pytest.approx(3 * 0.2**0.5, rel=0.05)


def test_common_motion_does_not_count():
    flow = torch.full((1, 2, 8, 8), 7.0)
    assert frame_spread(flow, torch.ones(1, 8, 8, dtype=torch.bool)).item() == 0


def test_wild_vectors_and_masked_ones_do_not_count():
    torch.manual_seed(0)
    flow = torch.randn(1, 2, 40, 40)
    valid = torch.ones(1, 40, 40, dtype=torch.bool)
    calm = frame_spread(flow, valid)
    wild = flow.clone()
    wild[0, :, 0, :20] = 500.0  # 1.25 percent
    assert frame_spread(wild, valid).item() == pytest.approx(calm.item(), rel=0.1)
    wild[0, :, :10] = torch.nan
    valid[0, :10] = False
    assert frame_spread(wild, valid).item() == pytest.approx(calm.item(), rel=0.1)


def test_nothing_trusted_is_no_motion():
    assert frame_spread(torch.ones(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)).tolist() == [[0.0], [0.0]]


def test_gaps_have_a_spread_each():
    flow = torch.randn(2, 4, 16, 16)
    valid = torch.rand(2, 16, 16) > 0.2
    apart = [frame_spread(flow[:, place : place + 2], valid) for place in (0, 2)]
    torch.testing.assert_close(frame_spread(flow, valid), torch.cat(apart, 1))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\[B, 2 G, H, W\]"):
        frame_spread(torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))
