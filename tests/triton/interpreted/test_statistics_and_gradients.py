"""Statistics and gradients of the Triton kernels against the reference in float64: options, dtypes, shapes, hard inputs."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from problems import OPERATORS, assert_right, by_reference, by_triton, in_float64, problem

from laparoflow_kernels.backends.triton import tiles
from laparoflow_kernels.backends.triton.tiles import Tile
from laparoflow_kernels.problem import PairProblem

BOOL = (False, True)
WIDE = {"forward": Tile(32, 16, 4, 1), "backward": Tile(32, 32, 4, 1)}
SMALL = Tile(64, 32, 4, 1)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN, so that an output nobody wrote shows."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("negatives", ["all", "dissimilar"])
@pytest.mark.parametrize("scope", ["frame", "batch"])
def test_every_option_of_the_gaussian_loss(positives: str, negatives: str, scope: str) -> None:
    for symmetric, bounded in itertools.product(BOOL, BOOL):
        assert_right(
            problem(
                masked=symmetric != bounded, positives=positives, negatives=negatives, scope=scope,
                symmetric=symmetric, bounded=bounded,
            )
        )  # fmt: skip


@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("scope", ["frame", "batch"])
def test_pairs_of_one_group_count_nowhere(positives: str, scope: str) -> None:
    for symmetric, bounded in itertools.product(BOOL, BOOL):
        negatives, dtype = ("dissimilar", torch.float32) if symmetric == bounded else ("all", torch.bfloat16)
        options = dict(positives=positives, negatives=negatives, scope=scope, symmetric=symmetric, bounded=bounded)
        p = problem(dtype=dtype, masked=symmetric, grouped=True, **options)
        assert_right(p)
        p.query_frames.group.zero_()
        p.key_frames.group.zero_()
        none = by_triton(p)
        assert (none.row_stats[0] == -torch.inf).all() and (none.row_stats[1] == 0).all()
        assert (none.dquery == 0).all() and (none.dkey == 0).all() and none.dtemperature == 0


@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("flow_kernel", ["gaussian", "laplace"])
def test_the_entropy_that_nobody_reads_is_left_out(positives: str, flow_kernel: str) -> None:
    """Everything else is as right, to the bit, without it."""
    for symmetric, bounded in itertools.product(BOOL, BOOL):
        options = dict(positives=positives, flow_kernel=flow_kernel, symmetric=symmetric, bounded=bounded)
        options["spread"] = 9.0 if bounded else 2.0
        p = problem((64,), (5,), 8, torch.bfloat16 if symmetric else torch.float32, masked=symmetric, **options)
        asked, got = by_triton(p), assert_right(replace(p, weight_stats=False))
        assert (got.row_stats[3] == 0).all() and not (asked.row_stats[3] == 0).all()
        assert torch.equal(got.row_stats[:3], asked.row_stats[:3]) and torch.equal(got.dquery, asked.dquery)


def test_groups_of_one_side_alone_are_refused() -> None:
    p = problem(grouped=True).op_args()
    with pytest.raises(ValueError, match="key_group: expected where query_group is"):
        OPERATORS.flow_infonce_forward(*p._replace(key_group=None))


@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_directions(positives: str, dtype: torch.dtype) -> None:
    assert_right(problem((37, 70), (65, 9), masked=True, dtype=dtype, positives=positives, symmetric=True, scope="batch"))


@pytest.mark.parametrize("flow_kernel", ["laplace", "cauchy", "tophat"])
@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_every_flow_kernel(flow_kernel: str, positives: str) -> None:
    for bounded in BOOL:
        assert_right(
            problem(
                flow_dim=3, masked=bounded, flow_kernel=flow_kernel, positives=positives, bounded=bounded,
                symmetric=True, negatives="dissimilar",
            )
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_every_dtype(dtype: torch.dtype, positives: str) -> None:
    for bounded in BOOL:
        assert_right(problem(dtype=dtype, dim=31, positives=positives, symmetric=bounded, bounded=bounded))


@pytest.mark.parametrize(
    ("n", "m", "dim"),
    [(1, 1, 3), (1, 65, 1), (63, 64, 31), (64, 63, 64), (65, 127, 96), (129, 1, 128), (127, 129, 200), (64, 64, 256)],
)
def test_shapes_across_tile_edges(n: int, m: int, dim: int) -> None:
    # the softmax of a single key is 1 whatever the logit, so such a row has a second frame's keys beside it; of four numbers
    # the larger error of two equally good results is often twice the other, so they are compared in float64
    frames, scope = (2, "batch") if m == 1 else (1, "frame")
    sizes = (n,) * frames, (m,) * frames
    dtype = torch.float64 if n * m == 1 else torch.float32
    assert_right(problem(*sizes, dim, dtype, bounded=False, scope=scope))
    assert_right(problem(*sizes, dim, dtype, symmetric=True, positives="inside", scope=scope))


@pytest.mark.parametrize("bounded", BOOL)
@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_a_single_key_has_no_loss_and_no_gradient(bounded: bool, positives: str) -> None:
    """Up to the rounding of lse, as in tests/kernels/test_edges.py: the reference subtracts equal numbers here."""
    p = problem((129,), (1,), 64, bounded=bounded, positives=positives)
    got = by_triton(p)
    roundings = 4 * torch.finfo(torch.float32).eps / float(p.temperature)
    if positives == "outside":
        assert (got.row_stats[0] - got.row_stats[2]).abs().max() <= roundings
    assert (129 * got.dquery).abs().max() <= roundings / float(p.temperature)


def test_a_thousand_rows_with_small_tiles_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "default_tile", lambda kind, *form: SMALL)
    assert_right(problem((1000,), (65,), 8, symmetric=True))
    assert_right(problem((130, 40), (100, 31), 8, symmetric=True, scope="batch", positives="inside"))


@pytest.mark.parametrize("flow_dim", range(1, 9))
def test_every_number_of_flow_components(flow_dim: int) -> None:
    assert_right(problem((33,), (40,), 16, flow_dim=flow_dim, spread=1.0))


@pytest.mark.parametrize("temperature", [0.01, 0.025, 1.0])
@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_temperatures(temperature: float, positives: str) -> None:
    for negatives in ("all", "dissimilar"):
        assert_right(problem(temperature=temperature, positives=positives, negatives=negatives, bounded=False))
        if temperature >= 0.025:
            assert_right(problem(temperature=temperature, positives=positives, negatives=negatives, bounded=True))


@pytest.mark.parametrize("bounded", BOOL)
def test_all_negative_logits_with_ragged_tiles(bounded: bool) -> None:
    p = problem((65,), (67,), 16, temperature=0.03, bounded=bounded, symmetric=True)
    p.query.abs_()
    p.key.abs_().neg_()
    assert (p.query @ p.key.T).max() < 0
    assert_right(p)


@pytest.mark.parametrize("negatives", ["all", "dissimilar"])
@pytest.mark.parametrize("bounded", BOOL)
def test_all_flows_equal(negatives: str, bounded: bool) -> None:
    p = problem(spread=0.0, offset=3.0, negatives=negatives, bounded=bounded, positives="inside", symmetric=True)
    got = assert_right(p)
    assert (got.row_stats[1] == torch.repeat_interleave(torch.tensor([65.0, 90.0]), torch.tensor([70, 33]))).all()


@pytest.mark.parametrize("flow_kernel", ["gaussian", "laplace", "cauchy", "tophat"])
def test_large_flows_keep_their_small_differences(flow_kernel: str) -> None:
    assert_right(problem(offset=1e4, flow_kernel=flow_kernel))


@pytest.mark.parametrize("bounded", BOOL)
@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_tiny_weights(bounded: bool, positives: str) -> None:
    """Rows whose best weight is anywhere down to 2^-126, and rows with none."""
    p = problem((64,), (3,), 8, flow_dim=1, temperature=0.03, positives=positives, bounded=bounded, symmetric=True)
    p.query_frames.flow.copy_(torch.linspace(0.0, 14.0, 64)[:, None])
    p.key_frames.flow.zero_()
    got = assert_right(p)
    weight_sum = got.row_stats[1]
    assert (weight_sum[-3:] == 0).all() and (weight_sum > 0).sum() > 55
    assert (weight_sum[weight_sum > 0] >= 2.0**-126).all()


@pytest.mark.parametrize("bounded", BOOL)
@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_cauchy_weights_over_all_exponents(bounded: bool, positives: str) -> None:
    """Rows whose best weight is anywhere down to 2^-126, rows with none, distances whose square is infinite."""
    p = problem(
        (68,), (3,), 8, flow_dim=1, flow_kernel="cauchy", temperature=0.03, positives=positives, bounded=bounded,
        symmetric=True,
    )  # fmt: skip
    p.query_frames.flow.copy_(torch.cat([torch.zeros(1), torch.logspace(-22.0, 44.0, 67, base=2.0) ** 1.5])[:, None])
    p.query_frames.flow[-3:] = torch.tensor([[2.0**63.25], [2.0**63.75], [1e30]])
    p.key_frames.flow.zero_()
    weight_sum = assert_right(p).row_stats[1]
    assert (weight_sum[-3:] == 0).all() and (weight_sum[:-3] > 0).all()
    assert (weight_sum[weight_sum > 0] >= 2.0**-126).all()


def test_a_frame_entirely_masked_and_empty_frames() -> None:
    for scope, bounded in itertools.product(("frame", "batch"), BOOL):
        p = problem((20, 0, 17, 5), (18, 3, 0, 6), 8, masked=True, scope=scope, bounded=bounded, symmetric=True)
        assert p.query_frames.mask is not None and p.key_frames.mask is not None
        for mask, rows in ((p.query_frames.mask, slice(37, 42)), (p.key_frames.mask, slice(21, 27))):
            mask[rows] = False
        p.query[37:42], p.key[21:27] = float("nan"), float("nan")
        p.query_frames.flow[37:42], p.key_frames.flow[21:27] = float("nan"), float("nan")
        assert_right(p)


@pytest.mark.parametrize(("query_sizes", "key_sizes"), [((5,), (0,)), ((0,), (5,)), ((0,), (0,)), ((), ())])
def test_empty_sides(query_sizes: tuple[int, ...], key_sizes: tuple[int, ...]) -> None:
    got = by_triton(problem(query_sizes, key_sizes, 4, symmetric=True))
    assert torch.equal(got.row_stats[0], torch.full((sum(query_sizes),), -torch.inf))
    assert torch.equal(got.column_stats[0], torch.full((sum(key_sizes),), -torch.inf))
    assert got.dquery.shape == (sum(query_sizes), 4) and (got.dquery == 0).all()
    assert got.dkey.shape == (sum(key_sizes), 4) and (got.dkey == 0).all()
    assert got.dtemperature == 0


def test_converged_training_in_bfloat16() -> None:
    """p close to w / W: points on a circle, whose logits cos(a - b) / t fall off as the gaussian weights of flow a do."""
    temperature, n = 0.05, 96
    p = problem((n,), (n,), 2, flow_dim=1, dtype=torch.bfloat16, temperature=temperature)
    angle = torch.linspace(0.0, 3.0, n)
    for rows, flow in ((p.query, p.query_frames.flow), (p.key, p.key_frames.flow)):
        rows.copy_(torch.stack([angle.cos(), angle.sin()], 1))
        flow.copy_(angle[:, None] / temperature**0.5)
    truth, got = by_reference(in_float64(p)), by_triton(p)
    logits = (p.query.float() @ p.key.float().T) / temperature
    weights = torch.exp(-0.5 * (p.query_frames.flow - p.key_frames.flow.T).square())
    upstream_row = torch.linspace(0.5, 1.5, n)[:, None] / n
    rounded = logits.softmax(1).bfloat16() - (weights / weights.sum(1, keepdim=True)).bfloat16()
    naive = (upstream_row * rounded).bfloat16().float() @ p.key.float() / temperature
    size = truth.dquery.norm()
    assert (naive.double() - truth.dquery).norm() > 0.02 * size
    assert (got.dquery.double() - truth.dquery).norm() < 0.01 * size


def test_float16_gradients_of_a_mean_over_many_rows_do_not_underflow() -> None:
    p = problem((80,), (80,), 16, dtype=torch.float16)
    rows, columns = by_triton(p).row_stats, torch.empty(4, 0)
    gradient = torch.full((2, 80), 1e-6) * torch.tensor([[1.0], [-1.0]])
    scaled = OPERATORS.flow_infonce_backward(*p.op_args(), rows, columns, gradient * 1e3, columns[:2], True, False, False)[0]
    plain = OPERATORS.flow_infonce_backward(*p.op_args(), rows, columns, gradient, columns[:2], True, False, False)[0]
    torch.testing.assert_close(plain.float() * 1e3, scaled.float(), rtol=0.02, atol=6e-8 * 1e3)


def test_repeated_runs_are_bitwise_equal() -> None:
    p = problem((130,), (140,), 16, symmetric=True)
    first, second = by_triton(p), by_triton(p)
    for name in ("row_stats", "column_stats", "dquery", "dkey", "dtemperature"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_only_needed_gradients_come_back() -> None:
    p = problem()
    rows, columns = OPERATORS.flow_infonce_forward(*p.op_args())
    assert columns.shape == (4, 0)
    gradient = torch.stack([torch.ones(103), -torch.ones(103)])
    every = OPERATORS.flow_infonce_backward(*p.op_args(), rows, columns, gradient, columns[:2], True, True, True)
    for needs in itertools.product(BOOL, repeat=3):
        found = OPERATORS.flow_infonce_backward(*p.op_args(), rows, columns, gradient, columns[:2], *needs)
        for value, need, full in zip(found, needs, every, strict=True):
            if need:
                torch.testing.assert_close(value, full, rtol=1e-4, atol=1e-4)
            else:
                assert value.shape == (0,)


def wide_problem(dim: int, dtype: torch.dtype, case: int) -> PairProblem:
    symmetric, bounded, inside = bool(case & 1), bool(case & 2), bool(case & 4)
    return problem(
        (37, 6), (20, 9), dim, dtype, masked=symmetric, grouped=bounded and inside, symmetric=symmetric, bounded=bounded,
        positives="inside" if inside else "outside", negatives="dissimilar" if symmetric != inside else "all",
        scope="batch" if inside else "frame",
    )  # fmt: skip


@pytest.mark.parametrize(("dim", "form"), [(257, 0), (384, 1), (768, 2), (1000, 3), (1024, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_too_wide_to_be_held(dim: int, form: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their logits are summed in chunks of channels and their gradients are made in blocks; all options, all dtypes."""
    monkeypatch.setattr(tiles, "default_tile", lambda kind, *form: WIDE[kind])
    for case in (form, form + 4):
        assert_right(wide_problem(dim, dtype, case))


def test_gradients_of_wide_rows_that_are_asked_for_alone() -> None:
    """dtemperature comes from one block of channels, whichever side makes it, and without any gradient of rows."""
    p = wide_problem(600, torch.float32, 1)
    rows, columns = OPERATORS.flow_infonce_forward(*p.op_args())
    upstream = [torch.stack([torch.ones(n), -torch.ones(n)]) for n in (len(p.query), len(p.key))]
    every = OPERATORS.flow_infonce_backward(*p.op_args(), rows, columns, *upstream, True, True, True)
    for needs in ((True, False, False), (False, True, True), (False, False, True)):
        found = OPERATORS.flow_infonce_backward(*p.op_args(), rows, columns, *upstream, *needs)
        for value, need, full in zip(found, needs, every, strict=True):
            if need:
                torch.testing.assert_close(value, full, rtol=1e-4, atol=1e-4)


def test_too_wide_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="D from 1 to 1024, got 1025"):
        by_triton(problem((3,), (3,), 1025))
