"""The sm_90a path, executed on the CPU, against dense float64: warpgroup products, fed by bulk copies of a producer."""

from __future__ import annotations

import itertools
from pathlib import Path

import host_reference as reference
import numpy as np
import pytest
from host_calls import WARPGROUP, Host
from host_cases import OPTIONS, SIGNS, check, make_case


@pytest.mark.parametrize("scope", ["frame", "batch"])
def test_warpgroup_many_small_frames(warpgroup_host: Host, scope: str) -> None:
    """Records never hold two frames: frames of 0 to 65 rows leave slots empty, which must not count."""
    check(warpgroup_host, make_case([1, 0, 64, 65, 2, 63], [63, 1, 0, 65, 64, 3], 16, scope=scope, masked=0.2,
                                    symmetric=True, bounded=True))  # fmt: skip


@pytest.mark.parametrize("limit_kib", [227, 100, 80])
def test_warpgroup_shared_memory(built: Path, limit_kib: int) -> None:
    """Fewer stages, then fewer warpgroups; keys over several blocks; row tiles one after another in a block."""
    host = Host(built / "libhost.so", multiprocessors=1, shared_memory=limit_kib * 1024, path=1)
    check(host, make_case([400, 70], [330, 130], 72, symmetric=True, bounded=True, scope="batch"))


def test_warpgroup_any_order_of_threads_gives_the_same_bits(warpgroup_host: Host) -> None:
    case = make_case([129, 40], [70, 90], 32, symmetric=True, positives="inside", masked=0.1)
    results = []
    try:
        for order in (0, 1, 2):
            warpgroup_host.library.laparoflow_host_set_order(order)
            results.append(warpgroup_host.forward(case))
    finally:
        warpgroup_host.library.laparoflow_host_set_order(0)
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            assert np.array_equal(x, y, equal_nan=True)


@pytest.mark.parametrize("element", ["bfloat16", "float16"])
@pytest.mark.parametrize("depth", [1, 31, 64, 72, 128, 200, 256])
def test_warpgroup_depths(warpgroup_host: Host, depth: int, element: str) -> None:
    check(warpgroup_host, make_case([65], [70], depth, seed=depth, element=element, bounded=True, symmetric=depth < 100))


@pytest.mark.parametrize(("flow_kernel", "positives", "negatives", "scope", "symmetric", "bounded"), OPTIONS[::5])
def test_warpgroup_options(warpgroup_host: Host, flow_kernel, positives, negatives, scope, symmetric, bounded) -> None:
    case = make_case(
        [70, 0, 33],
        [40, 12, 65],
        depth=40,
        width=3,
        masked=0.2,
        flow_kernel=flow_kernel,
        positives=positives,
        negatives=negatives,
        scope=scope,
        symmetric=symmetric,
        bounded=bounded,
    )
    check(warpgroup_host, case)


@pytest.mark.parametrize("far", ["rows", "columns", "some", "outliers"])
@pytest.mark.parametrize("scope", ["frame", "batch"])
@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_warpgroup_flows_beyond_the_reach_of_their_factors(
    warpgroup_host: Host, far: str, scope: str, positives: str
) -> None:
    """Weights come from a product of factors near the frame's origin alone; tiles beyond take the flows' difference."""
    case = make_case([200, 70], [130, 65], 16, masked=0.1, bounded=True, symmetric=True, scope=scope, positives=positives)
    if far == "rows":
        case.query_flow[:64] += np.float32(1e3)
    elif far == "columns":
        case.key_flow[64:130] -= np.float32(1e3)
    elif far == "some":  # near each other and far from the origin, beside others: w of 0, 1 and in between
        case.query_flow[100:110] += np.float32(25)
        case.key_flow[20:30] += np.float32(25)
    else:
        case.query_flow[::50] = np.float32(3e9)
        case.key_flow[::60] = np.float32(3e9)
    check(warpgroup_host, case)


@pytest.mark.parametrize("offset", [0.0, 3.25, 1e4, -7e6])
def test_warpgroup_equal_flows_have_weights_of_one(warpgroup_host: Host, offset: float) -> None:
    """Wherever the frame's flows lie: the origin of the factors is one of them."""
    case = make_case([65, 30], [70, 40], 16, bounded=True)
    case.query_flow[:] = np.float32(offset)
    case.key_flow[:] = np.float32(offset)
    rows, _ = warpgroup_host.forward(case)
    assert np.array_equal(rows[1], np.repeat(np.float32([70, 40]), [65, 30]))
    assert (rows[3] == 0).all()


@pytest.mark.parametrize("element", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("depth", "symmetric"), [(40, False), (64, True), (128, False), (72, True), (200, False), (256, True)]
)
def test_warpgroup_positives_inside(warpgroup_host: Host, depth: int, symmetric: bool, element: str) -> None:
    case = make_case(
        [130, 0, 65], [70, 5, 140], depth, masked=0.2, bounded=True, positives="inside", symmetric=symmetric, element=element
    )
    check(warpgroup_host, case)


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("positives", ["outside", "inside"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_warpgroup_signs_of_the_upstream_gradient(built: Path, deterministic: bool, positives: str, signs: str) -> None:
    """In one direction the gradient of lse is in the exponent, so its sign in the row's record: each depth has a kernel."""
    host = Host(built / "libhost.so", deterministic=deterministic, **WARPGROUP)
    for depth, element, scope in ((40, "bfloat16", "batch"), (72, "float16", "frame"), (200, "bfloat16", "frame")):
        case = make_case(
            [70, 0, 33], [40, 5, 65], depth, masked=0.2, bounded=True, positives=positives, element=element, scope=scope
        )
        case.query_flow[:20] += np.float32(1e3)  # beyond the reach of the factors, and without a weight
        check(host, case, signs=signs)


@pytest.mark.parametrize("temperature", [0.025, 0.05])
@pytest.mark.parametrize("sign", [1, -1])
def test_warpgroup_equal_logits_at_a_low_temperature(warpgroup_host: Host, sign: int, temperature: float) -> None:
    """log2 of a e^-lse is -s there: up to 58 either way, of keys that count and of those that do not."""
    for element, positives in itertools.product(("bfloat16", "float16"), ("outside", "inside")):
        case = make_case([65], [67], 24, temperature=temperature, masked=0.2, bounded=True, element=element,
                         positives=positives)  # fmt: skip
        case.query[case.query_mask] = np.eye(24)[0]
        case.key[case.key_mask] = sign * np.eye(24)[0]
        check(warpgroup_host, case)


@pytest.mark.parametrize("temperature", [0.025, 0.1])
@pytest.mark.parametrize("distance", [9.0, 11.0, 12.8, 13.15])
@pytest.mark.parametrize("near", [0, 1, 70])
def test_warpgroup_inside_weights_near_the_smallest_float(
    warpgroup_host: Host, distance: float, near: int, temperature: float
) -> None:
    """Weights down to 2^-126 beside e^s down to 2^-57: their product underflows. Where no nearer keys (``near`` of them)
    hold the sum it must be found in log space. So far from the origin the factors miss log2 w by up to 1e-4."""
    case = make_case(
        [70], [200], 16, temperature=temperature, positives="inside", bounded=True, flow_scale=0.01, symmetric=True
    )
    case.key_flow[:, 0] += np.float32(distance)
    case.key_flow[64 : 64 + near, 0] -= np.float32(distance / 2)
    truth, got = reference.forward(case), warpgroup_host.forward(case)
    for right, mine in zip(truth, got, strict=True):
        np.testing.assert_allclose(mine[2], right[2], atol=2e-4)  # finite, or -inf where no key has a weight
        np.testing.assert_allclose(mine[1], right[1], rtol=2e-4, atol=2.0**-126)
    rng = np.random.default_rng(1)
    arguments = (*map(np.float32, truth), rng.normal(size=(2, 70)), rng.normal(size=(2, 200)))
    gradients = (x.backward(case, *arguments)[:2] for x in (reference, warpgroup_host))
    for right, mine in zip(*gradients, strict=True):
        assert np.linalg.norm(mine - right) <= 4e-3 * np.linalg.norm(right)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 4.0])
def test_warpgroup_weights_from_factors(warpgroup_host: Host, scale: float) -> None:
    """log2 w of a product misses by no more than a few 2^-22 of |u|^2, u the flow in units of the weight."""
    case = make_case([130], [150], 16, bounded=True, flow_scale=scale)
    truth, got = reference.forward(case)[0], warpgroup_host.forward(case)[0]
    largest = 0.7213 * max((flow**2).sum(1).max() for flow in (case.query_flow, case.key_flow))
    assert largest < 256
    seen = truth[1] > 1e-30
    error = np.abs(got[1] - truth[1])[seen] / truth[1][seen]
    assert error.max() <= 2.0**-22 * 4 * (1 + largest)


@pytest.mark.parametrize(("queries", "keys"), [(1, 63), (63, 1), (64, 64), (127, 65), (129, 127), (5, 0)])
def test_warpgroup_tile_edges(warpgroup_host: Host, queries: int, keys: int) -> None:
    check(warpgroup_host, make_case([queries], [keys], 64, seed=queries, symmetric=True, bounded=True))
