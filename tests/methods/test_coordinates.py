import pytest
import torch

from laparoflow.methods.base import cell_diagonal, place_guides
from laparoflow.methods.build import build_method
from laparoflow.methods.coordinates import CoordinateMethod
from laparoflow.methods.settings import CoordinateSettings, MethodSettings


def test_guides_are_in_cell_diagonals(make_view):
    view = make_view(0)
    torch.testing.assert_close(cell_diagonal(view.grid), torch.full((2,), 4 * 2**0.5))
    guide = place_guides(view.grid, view.grid)[0]
    torch.testing.assert_close((guide[:, :, 1, 1] - guide[:, :, 0, 0]).norm(dim=1), torch.ones(2))


def test_positives_are_the_pixels_nearby(encoder, make_view):
    view = make_view(0)
    method = CoordinateMethod(encoder, CoordinateSettings(bandwidth=0.1)).eval()
    only_itself = method(view, view).logs["weight_entropy"]
    assert only_itself.abs().item() < 1e-6  # one-hot weights
    wider = CoordinateMethod(encoder, CoordinateSettings(bandwidth=0.75)).eval()
    assert wider(view, view).logs["weight_entropy"].item() > 1.0


def test_flow_plays_no_part(encoder, make_view):
    method = CoordinateMethod(encoder, CoordinateSettings()).eval()
    first, second = make_view(0), make_view(1)
    changed = first._replace(flow=torch.randn_like(first.flow), valid=torch.zeros_like(first.valid))
    assert torch.equal(method(first, second).loss, method(changed, second).loss)


def test_a_grid_of_one_cell_is_refused():
    with pytest.raises(ValueError, match="2 x 2"):
        cell_diagonal(torch.zeros(1, 1, 1, 2))


def test_one_key_switches(encoder):
    assert type(build_method(encoder, MethodSettings("flow"))).__name__ == "FlowMethod"
    assert type(build_method(encoder, MethodSettings("coordinates"))).__name__ == "CoordinateMethod"
    with pytest.raises(ValueError, match=r"method\.name"):
        build_method(encoder, MethodSettings("nothing"))  # type: ignore[arg-type]
