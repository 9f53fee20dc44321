"""The CUDA kernel sources, executed on the CPU, against dense float64."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
from pathlib import Path

import host_reference as reference
import numpy as np
import pytest
from host_calls import FLOW_KERNELS, WARPGROUP, Host, round_to
from host_cases import EPSILON, OPTIONS, assert_right, check, far_case, grouped, make_case

ELEMENTS = ("bfloat16", "float16", "float32")


@pytest.mark.parametrize(("flow_kernel", "positives", "negatives", "scope", "symmetric", "bounded"), OPTIONS)
def test_every_option(host: Host, flow_kernel, positives, negatives, scope, symmetric, bounded) -> None:
    """All options on ragged, masked frames; element, depth and flow width vary with the case."""
    options = (flow_kernel, positives, negatives, scope, symmetric, bounded)
    index = OPTIONS.index(options)
    case = make_case(
        [70, 0, 33], [40, 12, 65], depth=(3, 16, 40, 64, 72, 130)[index % 6], width=1 + index % 8, seed=index,
        masked=0.2 if index % 3 else 0.0, element=ELEMENTS[index % 3 if index % 2 else (index // 6) % 3],
        flow_kernel=flow_kernel, positives=positives, negatives=negatives, scope=scope, symmetric=symmetric,
        bounded=bounded,
    )  # fmt: skip
    check(host, case)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("flow_kernel", "positives", "negatives", "scope", "symmetric", "bounded"), [*OPTIONS[:8], *OPTIONS[8::3]]
)
def test_pairs_of_equal_groups_count_nowhere(
    built: Path, flow_kernel, positives, negatives, scope, symmetric, bounded, deterministic
) -> None:
    """Within a frame and across: ids that are equal in one of their words alone are not equal."""
    index = OPTIONS.index((flow_kernel, positives, negatives, scope, symmetric, bounded))
    case = make_case(
        [70, 0, 33], [40, 12, 65], depth=(3, 40, 72)[index % 3], width=1 + index % 8, seed=index,
        masked=0.2 if index % 3 else 0.0, element=ELEMENTS[index % 3], flow_kernel=flow_kernel, positives=positives,
        negatives=negatives, scope=scope, symmetric=symmetric, bounded=bounded,
    )  # fmt: skip
    host = Host(built / "libhost.so", deterministic=deterministic)
    without = host.forward(case)[0][0]
    check(host, grouped(case))
    assert not np.allclose(host.forward(case)[0][0], without), "groups changed nothing"


@pytest.mark.parametrize("element", ELEMENTS)
def test_one_view_against_itself_leaves_out_each_pixel(host: Host, element: str) -> None:
    """exclude_self: of all 1 / W the one whose w is 1. A frame of one pixel has no pair then."""
    case = make_case([1, 130], [1, 130], 24, element=element, symmetric=True, bandwidth=0.02, bounded=True)
    case.key, case.key_flow = case.query, case.query_flow
    case.query_group = case.key_group = np.arange(131)
    check(host, case)
    rows, columns = host.forward(case)
    assert rows[0, 0] == columns[0, 0] == -np.inf and rows[1, 0] == columns[1, 0] == 0


def test_a_far_row_is_summed_anew_without_its_group(host: Host) -> None:
    """Rows whose W is tiny go through merge_kernel's own sum."""
    for far in ("query", "key"):
        check(host, grouped(far_case(far, "bfloat16", bounded=True), groups=3))


@pytest.mark.parametrize("path", [0, 1])
@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("flow_kernel", ["gaussian", "cauchy"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_statistics_that_nobody_asked_for(built: Path, path: int, positives: str, flow_kernel: str, symmetric: bool) -> None:
    """The others keep their bits; the sum of w log w is NaN, inside W is 1 where it is above 0."""
    host = Host(built / "libhost.so", **(WARPGROUP if path else {}))
    case = make_case([130, 0, 65], [70, 5, 140], 40, masked=0.2, symmetric=symmetric, bounded=True,
                     positives=positives, flow_kernel=flow_kernel)  # fmt: skip
    case.query_flow[:20] += np.float32(1e4)  # some rows have no weight at all, some a single tile of it
    case.query_flow[20:40, 0] += np.float32(12.7)
    sides = zip(host.forward(case), host.forward(dataclasses.replace(case, weight_stats=False)), strict=True)
    for all_of, some in list(sides)[: 1 + symmetric]:
        positive = (all_of[1] > 0).astype(np.float32)
        assert 0 < positive.mean() < 1
        assert np.array_equal(some[[0, 2]], all_of[[0, 2]])
        assert np.array_equal(some[1], positive if positives == "inside" else all_of[1])
        assert np.isnan(some[3]).all()
    check(host, case)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(1, 63), (63, 1), (64, 64), (65, 129), (127, 65), (129, 127), (1, 1)])
def test_tile_edges_of_rows(host: Host, queries: int, keys: int, symmetric: bool, element: str) -> None:
    check(host, make_case([queries], [keys], 64, seed=queries, element=element, symmetric=symmetric, bounded=True))


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("depth", [1, 3, 8, 31, 64, 65, 96, 128, 200, 256])
def test_depths(host: Host, depth: int, element: str) -> None:
    check(host, make_case([66], [70], depth, seed=depth, element=element, bounded=True))


def test_thousand(built: Path) -> None:
    """Several row tiles, keys split over blocks, rectangles when symmetric."""
    host = Host(built / "libhost.so", multiprocessors=20)
    check(host, make_case([1000], [1000], 16, bounded=True, symmetric=True))
    check(host, make_case([127], [1000], 16, positives="inside"))


@pytest.mark.parametrize("temperature", [0.01, 0.03, 1.0])
@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_temperatures(host: Host, temperature: float, positives: str) -> None:
    for element in ("bfloat16", "float32"):
        check(host, make_case([65], [70], 32, temperature=temperature, positives=positives, symmetric=True,
                              bounded=temperature > 0.025, element=element))  # fmt: skip


@pytest.mark.parametrize("element", ELEMENTS)
def test_all_negative_logits(host: Host, element: str) -> None:
    """A padded or masked column must not win the maximum or add to the sums, nor its dS, e^20 times too large, overflow."""
    for bounded in (False, True):
        case = make_case([65], [67], 24, temperature=0.05, masked=0.2, symmetric=True, bounded=bounded, element=element)
        direction = np.zeros(24)
        direction[0] = 1.0
        case.query = np.tile(direction, (65, 1))
        case.key = -np.tile(direction, (67, 1))
        check(host, case)


@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("seed", range(3))
def test_float32_logits_of_minus_a_hundred(host: Host, seed: int, positives: str) -> None:
    """What tf32 parts leave out and accumulators cut off is multiplied by 1 / temperature."""
    case = make_case([65], [67], 16, temperature=0.01, positives=positives, element="float32", bandwidth=2.0, seed=seed)
    for x, direction in ((case.query, 0.25), (case.key, -0.25)):
        x[:] = np.float32(direction + 0.05 * x)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    grad = np.random.default_rng(seed).normal(size=(2, 65))
    truth, same, got = (
        module.backward(case, np.float32(stats), None, grad, None, **precision)
        for module, stats, precision in (
            (reference, reference.forward(case)[0], {}),
            (reference, reference.forward(case, np.float32)[0], {"dtype": np.float32}),
            (host, host.forward(case)[0], {}),  # each with its own statistics: what is common to a row's logits cancels
        )
    )
    for name, right, dense, mine in zip(("dquery", "dkey"), truth, same, got, strict=False):
        assert_right(name, mine, right, dense)


@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("element", ["bfloat16", "float32"])
def test_nan_in_a_valid_row_stays_in_its_statistics(host: Host, element: str, positives: str) -> None:
    """A comparison must not take it for an empty sum, whose row would not count."""
    case = make_case([20], [30], 16, element=element, positives=positives)
    case.query[3] = np.nan
    rows = host.forward(case)[0]
    assert np.isnan(rows[0, 3])
    assert np.isfinite(np.delete(rows, 3, axis=1)).all()


@pytest.mark.parametrize("keys", [40, 1000])
def test_float32_gradients_of_many_keys(host: Host, keys: int) -> None:
    """A sum that is cut off at each addition would be short by more the longer it is."""
    check(host, make_case([20], [keys], 31, element="float32", bounded=True))


def test_flows_equal_and_flows_far(host: Host) -> None:
    for flow_kernel in FLOW_KERNELS:
        equal = make_case([65], [66], 16, flow_kernel=flow_kernel)
        equal.query_flow[:] = 3.5
        equal.key_flow[:] = 3.5
        check(host, equal)
        far = make_case([65], [66], 16, flow_kernel=flow_kernel, flow_scale=1e4, bandwidth=2e3, symmetric=True)
        check(host, far)
        shifted = make_case([65], [66], 16, flow_kernel=flow_kernel, bounded=True)
        shifted.query_flow += np.float32(1e4)  # differences of order 1 on flows of 1e4
        shifted.key_flow += np.float32(1e4)
        check(host, shifted)


def test_no_weights_anywhere(host: Host) -> None:
    """Flows so far apart that every weight is below 2^-126."""
    for positives in ("outside", "inside"):
        case = make_case([10], [70], 16, flow_scale=1e-3, positives=positives, symmetric=True)
        case.key_flow += np.float32(1e4)
        rows, columns = host.forward(case)
        assert (rows[1] == 0).all()
        assert (rows[3] == 0).all()
        assert (columns[1] == 0).all()
        assert (rows[2] == (0 if positives == "outside" else -np.inf)).all()
        check(host, case)


def test_tiny_weights_keep_inside_finite(host: Host) -> None:
    """w near 2^-120 with s from -30 to 30: the positive term is found in log space."""
    case = make_case([20], [70], 16, temperature=0.033, positives="inside", bounded=True, flow_scale=0.01)
    case.key_flow[:, 0] += np.float32(12.8)
    check(host, case)


@pytest.mark.parametrize("upstream", [1e-30, 1.0, 65536.0])
@pytest.mark.parametrize("far", ["query", "key"])
@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("path", [0, 1])
def test_tiny_weight_sums(built: Path, path: int, element: str, positives: str, far: str, upstream: float) -> None:
    """b / W of float32 overflows from W = 2^-115 on in float16 and, with the 65536 of a gradient scaler, in all."""
    if path == 1 and element == "float32":
        return  # the sm_90a path has 16-bit types alone
    host = Host(built / "libhost.so", **(WARPGROUP if path else {}))
    # gradients of float16 have to stay in its range: 600 is 65536 over the rows of a mean
    scale, temperature = (600.0, 1.0) if (element, upstream) == ("float16", 65536.0) else (upstream, 0.1)
    for bounded, symmetric in ((True, True), (True, False), (False, True)):
        case = far_case(far, element, positives=positives, bounded=bounded, temperature=temperature, symmetric=symmetric)
        check(host, case, grad_scale=scale)


@pytest.mark.parametrize(("queries", "keys"), [([0], [5]), ([5], [0]), ([0, 7], [9, 0]), ([0], [0])])
@pytest.mark.parametrize("scope", ["frame", "batch"])
def test_empty_sides(host: Host, queries: list[int], keys: list[int], scope: str) -> None:
    check(host, make_case(queries, keys, 8, symmetric=True, scope=scope))


def test_everything_masked(host: Host) -> None:
    for scope in ("frame", "batch"):
        case = make_case([30, 65], [70, 20], 16, masked=0.5, symmetric=True, scope=scope, bounded=True)
        case.query_mask[:30] = False
        case.key_mask[:70] = False
        case.query[:30], case.key[:70] = np.nan, np.nan
        check(host, case)


def test_tf32_is_tf32_and_full_float_is_not(host: Host) -> None:
    case = make_case([65], [66], 64, element="float32", full_float=False)
    check(host, case)
    truth = reference.forward(case)[0][0]
    coarse = np.abs(host.forward(case)[0][0] - truth).max()
    fine = np.abs(host.forward(dataclasses.replace(case, full_float=True))[0][0] - truth).max()
    assert fine < 2e-6 < 2e-5 < coarse


def test_half_gradients_do_not_underflow(host: Host) -> None:
    """Upstream gradients of a mean over many rows: dS near 1e-9, below float16's smallest number."""
    check(host, make_case([65], [130], 32, element="float16", symmetric=True, bounded=True), grad_scale=1e-5)


def test_converged_gradient_survives_bfloat16(host: Host) -> None:
    """p nearly equals w / W; dS is subtracted in float32, so at most 1 % is lost. Rounding first loses over 5 %."""
    rng = np.random.default_rng(0)
    flow = rng.normal(size=(200, 2)).astype(np.float32)
    case = make_case([100], [100], 16, temperature=1.0)
    case.query_flow, case.key_flow = flow[:100], flow[100:]
    half_square = (flow**2).sum(1) / 2
    embedding = np.zeros((200, 16))
    embedding[:, :2] = flow
    case.query, case.key = embedding[:100].copy(), embedding[100:].copy()
    case.query[:, 2], case.query[:, 3] = -half_square[:100], 1
    case.key[:, 2], case.key[:, 3] = 1, -half_square[100:]
    case.query, case.key = round_to(case.query, "bfloat16"), round_to(case.key, "bfloat16")
    stats = reference.forward(case)[0]
    grad = np.stack([np.ones(100), -np.ones(100)])
    truth = reference.backward(case, stats, None, grad, None)
    got = host.backward(case, np.float32(stats), None, grad, None)
    w, _, _ = reference.flow_weights(case, np.float64)
    p = np.exp(case.query @ case.key.T - stats[0][:, None])
    naive = (round_to(p, "bfloat16") - round_to(w / stats[1][:, None], "bfloat16")) @ case.key
    norm = np.linalg.norm
    assert norm(naive - truth[0]) > 0.05 * norm(truth[0])
    assert norm(got[0] - truth[0]) <= 0.01 * norm(truth[0])
    assert norm(got[1] - truth[1]) <= 0.01 * norm(truth[1])


@pytest.mark.parametrize(("element", "depth"), [("bfloat16", 256), ("float32", 256), ("bfloat16", 64)])
@pytest.mark.parametrize("limit_kib", [99, 56])
def test_small_shared_memory(built: Path, element: str, depth: int, limit_kib: int) -> None:
    """One stage instead of two, then fewer warps, on devices with less shared memory."""
    host = Host(built / "libhost.so", shared_memory=limit_kib * 1024)
    case = make_case([130], [70], depth, element=element, symmetric=True, bounded=True)
    check(host, case)


def test_too_little_shared_memory_is_refused(built: Path) -> None:
    host = Host(built / "libhost.so", shared_memory=40 * 1024)
    with pytest.raises(RuntimeError, match="status -1"):
        host.forward(make_case([130], [70], 256, element="float32"))


def test_more_blocks_than_a_grid_holds_are_refused(host: Host) -> None:
    """Not with the number of an error of CUDA: those are positive."""
    case = make_case([3], [70], 16)
    problem = host._problem(case)
    problem.query_longest = 2**45
    rows = np.full((4, 3), np.nan, np.float32)
    assert host.library.laparoflow_host_forward(ctypes.byref(problem), rows.ctypes.data_as(ctypes.c_void_p), None) == -2


def test_only_what_is_needed(host: Host) -> None:
    case = make_case([65], [66], 16)
    stats = np.float32(reference.forward(case)[0])
    grad = np.random.default_rng(0).normal(size=(2, 65))
    full = host.backward(case, stats, None, grad, None)
    for need in itertools.product((False, True), repeat=3):
        part = host.backward(case, stats, None, grad, None, need=need)
        for wanted, x, y in zip(need, part, full, strict=True):
            assert (x is None) is not wanted
            if wanted:
                np.testing.assert_allclose(x, y, rtol=1e-5)


def test_any_order_of_threads_gives_the_same_bits(host: Host) -> None:
    case = make_case([129, 40], [70, 90], 32, symmetric=True, positives="inside", masked=0.1)
    stats = [np.float32(x) for x in reference.forward(case)]
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(2, 169)), rng.normal(size=(2, 160))
    results = []
    try:
        for order in (0, 1, 2):
            host.library.laparoflow_host_set_order(order)
            results.append([*host.forward(case), *host.backward(case, *stats, *grads)])
    finally:
        host.library.laparoflow_host_set_order(0)
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            assert np.array_equal(x, y, equal_nan=True)


def test_offsets_beyond_32_bits(host: Host) -> None:
    """Rows whose element index exceeds 2^31: the arrays before them are address space that is never touched."""
    depth, first = 256, 2**23 + 5
    case = make_case([3], [70], depth, bounded=True)
    problem = host._problem(case)
    offset = np.array([first, first + 3], np.int64)
    problem.query -= first * depth * 2
    problem.query_flow -= first * 2 * 4
    problem.query_offsets = offset.ctypes.data
    problem.query_total = first + 3
    rows = np.full((4, first + 3), np.nan, np.float32)
    status = host.library.laparoflow_host_forward(ctypes.byref(problem), rows.ctypes.data_as(ctypes.c_void_p), None)
    assert status == 0, host.library.laparoflow_host_message()
    truth, same = reference.forward(case)[0], reference.forward(case, np.float32)[0]
    for index in range(4):
        assert_right(f"statistic {index}", rows[index, first:], truth[index], same[index])


@pytest.mark.parametrize("flow_kernel", FLOW_KERNELS)
@pytest.mark.parametrize(("channels", "width"), [(1, 2), (64, 1), (70, 5)])
def test_weighted_sum(host: Host, flow_kernel: str, channels: int, width: int) -> None:
    case = make_case([70, 0, 33], [40, 12, 65], 8, width, flow_kernel=flow_kernel, masked=0.2)
    values = np.random.default_rng(2).normal(size=(117, channels)).astype(np.float32)
    values[~case.key_mask] = np.nan
    got = host.weighted_sum(case, values)
    truth, same = reference.weighted_sum(case, values), reference.weighted_sum(case, values, np.float32)
    for name, x, y, z in zip(("sums", "weight sum"), got, truth, same, strict=True):
        assert_right(name, x, y, z)
    assert (got[0][~case.query_mask] == 0).all()
    assert (got[1][~case.query_mask] == 0).all()


@pytest.mark.parametrize("path", [0, 1])
@pytest.mark.parametrize(("element", "depth"), [("bfloat16", 3), ("float16", 64), ("bfloat16", 72), ("bfloat16", 128)])
def test_backward_in_one_and_in_two_passes(built: Path, element: str, depth: int, path: int) -> None:
    """The deterministic mode forms dS once per side, the other mode once; their sums differ in order alone."""
    limits = WARPGROUP if path else {}
    case = make_case(
        [330, 0, 70], [65, 5, 140], depth, seed=2, element=element, masked=0.2, symmetric=depth == 72, bounded=True
    )
    hosts = [Host(built / "libhost.so", deterministic=flag, **limits) for flag in (False, True)]
    for host in hosts:
        check(host, case)
    stats = [None if x is None else np.float32(x) for x in reference.forward(case)]
    if not case.symmetric:
        stats[1] = None
    rng = np.random.default_rng(3)
    grads = rng.normal(size=(2, 400)), rng.normal(size=(2, 210)) if case.symmetric else None
    once, twice = (host.backward(case, *stats, *grads) for host in hosts)
    assert np.array_equal(once[0], twice[0])  # the rows' gradient stays in registers in either
    difference = np.abs(once[1] - twice[1]).max()
    assert difference <= EPSILON[element] * np.abs(twice[1]).max()
    if element == "float16":  # bfloat16 rounds the difference away
        assert difference > 0, "both modes took the same path"


def test_one_pass_adds_up_blocks_and_two_passes_use_no_sums(built: Path) -> None:
    """float32 and deep embeddings take two passes in either mode, so their bits are the same."""
    for element, depth in (("float32", 24), ("bfloat16", 200)):
        case = make_case([150], [70], depth, element=element)
        stats = np.float32(reference.forward(case)[0])
        grad = np.random.default_rng(0).normal(size=(2, 150))
        results = [
            Host(built / "libhost.so", deterministic=flag).backward(case, stats, None, grad, None) for flag in (False, True)
        ]
        for x, y in zip(*results, strict=True):
            assert np.array_equal(x, y)
