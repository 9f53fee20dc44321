import torch

from laparoflow.training.frames import FrameBatch
from laparoflow.training.pairs import cell_inside, others, two_views
from laparoflow.views.settings import GeometrySettings, ViewSettings
from laparoflow.views.two_views import TwoViews


def batch(size=48):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (3, 3, size, size), generator=generator, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    flow = torch.stack([x, y]).expand(3, 2, size, size).clone()  # the flow of a pixel is its own place
    flow[1] += 100
    valid = torch.ones(3, size, size, dtype=torch.bool)
    return FrameBatch(image, flow, valid, torch.arange(3), torch.tensor([0, 1, 0]), torch.zeros(3, dtype=torch.long))


def test_flow_stays_in_source_axes_under_any_transform():
    views = TwoViews(ViewSettings((32, 32), GeometrySettings(rotation=90, flip=0.5)))
    for view in two_views(batch(), views, 4, (1, 2)):
        place = view.grid.movedim(-1, 1)
        slack = 2.5e-3  # sampling may leave out neighbours of weight 1e-3, one pixel away
        assert ((view.flow[0] - place[0]).abs() * view.valid[0]).max() < slack
        assert ((view.flow[1] - place[1] - 100).abs() * view.valid[1]).max() < slack


def test_views_come_from_the_seed():
    views = TwoViews(ViewSettings((16, 16)))
    one, two, other = (two_views(batch(), views, 4, seed)[0] for seed in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(one.image, two.image)
    assert not torch.equal(one.grid, other.grid)


def test_shuffled_flow_is_that_of_another_clip():
    views = TwoViews(ViewSettings((16, 16)))
    own, other = (two_views(batch(), views, 4, (0,), shuffle)[0] for shuffle in (False, True))
    assert torch.equal(own.grid, other.grid)
    difference = other.flow - own.flow
    for row in (0, 2):  # frame 2 comes before frame 0, but is of its clip
        assert torch.allclose(difference[row], torch.full_like(difference[row], 100.0), atol=1e-3)
    assert torch.allclose(difference[1], torch.full_like(difference[1], -100.0), atol=1e-3)


def test_cells_need_three_quarters():
    inside = torch.ones(1, 4, 8, dtype=torch.bool)
    inside[0, 0, :4] = False  # a quarter of the first cell is out
    assert cell_inside(inside, 4).tolist() == [[[True, True]]]
    inside[0, 1, 0] = False
    assert cell_inside(inside, 4).tolist() == [[[False, True]]]


def test_without_another_clip_the_flow_is_another_frames():
    assert others(torch.zeros(3, dtype=torch.long)).tolist() == [2, 0, 1]
    assert others(torch.tensor([5, 5, 7, 7])).tolist() == [3, 3, 1, 1]
