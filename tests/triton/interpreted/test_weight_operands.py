"""Exponents of the weights as a product: the operands themselves, and tiles whose flows are too far for them."""

from collections.abc import Callable, Iterator

import pytest
import torch
from problems import assert_right, problem
from torch import Tensor

from laparoflow_kernels.backends.triton import launch, tiles
from laparoflow_kernels.backends.triton.tiles import Tile
from laparoflow_kernels.backends.triton.weight_operands_kernel import REACH
from laparoflow_kernels.problem import PairProblem

LOG2_E = 1.4426950408889634
FAR = 3 * float(REACH.value)  # in pixels; bandwidths here are 1 and less


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN, so that an output nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def own_order(operand: Tensor) -> Tensor:
    """The columns as the side that a program holds has them."""
    return operand[:, [0, 2, 1, 3, 4, 6, 5, 7, 11, 12, 13, 8, 9, 10, 14, 15]].double()


@pytest.mark.parametrize("flow_dim", [1, 2])
@pytest.mark.parametrize(("spread", "offset"), [(1.5, 0.0), (3.0, 0.0), (1.5, 1e4), (0.0, 7.0)])
def test_the_product_is_the_exponent(flow_dim: int, spread: float, offset: float) -> None:
    p = problem((70, 300), (65, 90), dtype=torch.bfloat16, masked=True, flow_dim=flow_dim, spread=spread, offset=offset)
    query, key = launch.sides_of(p.op_args())
    left, right = query.operands, key.operands
    assert (query.chunks, key.chunks) == (2, 1) and query.near.shape == (2, 2, 32)
    q, k = p.query_frames, p.key_frames
    for frame in (0, 1):
        rows, columns = (slice(f.offsets[frame], f.offsets[frame + 1]) for f in (q, k))
        got = own_order(left[rows]) @ right[columns].double().T
        difference = q.flow[rows].double()[:, None] - k.flow[columns].double()[None]
        exact = -0.5 * LOG2_E * difference.square().sum(2) * p.inv_bandwidth[frame].double() ** 2
        kept = q.mask[rows][:, None] & k.mask[columns][None]
        norms = left[rows][:, None, 11:14].double().sum(2).abs() + right[columns][None, :, 11:14].double().sum(2).abs()
        assert ((got - exact).abs() <= 2.0**-20 * (norms + 0.25))[kept].all()
        assert (got[~kept] < -50_000).all(), "a masked pixel has no weight"


def test_flags_tell_far_tiles_of_every_size() -> None:
    p = problem((600,), (40,), dtype=torch.bfloat16, spread=1.0)
    p.query_frames.flow[[37, 300], 1] += 40 * FAR
    p.query_frames.flow[400] = float("nan")
    near = launch.sides_of(p.op_args())[0].near
    far_rows = torch.zeros(768, dtype=torch.bool)
    far_rows[[37, 300, 400]] = True
    for size in (16, 32, 64, 128, 256):
        first = 256 // size - 1
        flags = near[0, :, first : first + 256 // size].reshape(-1)
        assert torch.equal(flags == 0, far_rows.reshape(-1, size).any(1)), size


def moved(change: Callable[[Tensor], None], **options: object) -> PairProblem:
    """A problem with several tiles on each side, whose flows ``change`` moves on both sides alike."""
    p = problem((150, 70), (140, 129), dtype=torch.bfloat16, spread=1.0, **options)
    for frames in (p.query_frames, p.key_frames):
        change(frames.flow)
    return p


def one_pixel(flow: Tensor) -> None:
    flow[20] += FAR
    flow[160] -= FAR


def second_tiles(flow: Tensor) -> None:
    flow[64:128, 0] += FAR


def everything(flow: Tensor) -> None:
    flow *= 30


def clusters(flow: Tensor) -> None:
    """Four motions of rigid bodies, 1e4 pixels apart, next to one another in every tile."""
    body = torch.arange(flow.shape[0]) % 4
    flow[:, 0] += 1e4 * body
    flow[:, 1] -= 7e3 * body


def common_motion(flow: Tensor) -> None:
    flow += 1e4


@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("change", [one_pixel, second_tiles, everything, clusters, common_motion])
def test_flows_out_of_reach(change: Callable[[Tensor], None], positives: str) -> None:
    assert_right(moved(change, positives=positives, symmetric=positives == "inside", masked=change is one_pixel))


@pytest.mark.parametrize("tile", [Tile(128, 32, 4, 1), Tile(32, 128, 4, 1), Tile(64, 16, 4, 1)], ids=str)
def test_tiles_of_other_sizes(tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "default_tile", lambda kind, *form: tile)
    assert_right(moved(second_tiles, masked=True))


def test_other_frames_do_not_move_the_origin() -> None:
    """Frames 1e5 pixels apart are near their own origin each; across frames there are no weights."""

    def frames_apart(flow: Tensor) -> None:
        flow[150:] += 1e5

    p = moved(frames_apart, scope="batch")
    p.key_frames.flow[140:150] += 1e5  # the frames of the keys begin at 140
    assert all((side.near[:, :, :31] == 1).all() for side in launch.sides_of(p.op_args()))
    assert_right(p)


def test_a_frame_without_valid_queries() -> None:
    p = problem((70, 33), (65, 90), dtype=torch.bfloat16, masked=True)
    p.query_frames.mask[:70] = False
    assert_right(p)
