"""Problems for the host-executed kernels, and the rule by which a result is right."""

from __future__ import annotations

import itertools
from typing import Any

import host_reference as reference
import numpy as np
from host_calls import FLOW_KERNELS, Host, round_to
from host_reference import Case

EPSILON = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}

# flow_kernel, positives, negatives, scope, symmetric, bounded
OPTIONS = list(
    itertools.product(
        FLOW_KERNELS, ("outside", "inside"), ("all", "dissimilar"), ("frame", "batch"), (False, True), (False, True)
    )
)


def make_case(
    queries: list[int],
    keys: list[int],
    depth: int,
    width: int = 2,
    *,
    seed: int = 0,
    masked: float = 0.0,
    flow_scale: float = 1.0,
    element: str = "bfloat16",
    bandwidth: float = 1.0,
    **options: Any,
) -> Case:
    """Unit embeddings and normal flows; a share ``masked`` of rows is masked and holds NaN."""
    rng = np.random.default_rng(seed)

    def side(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        x = rng.normal(size=(count, depth))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        flow = (rng.normal(size=(count, width)) * flow_scale).astype(np.float32)
        mask = rng.random(count) >= masked if masked > 0 else None
        if mask is not None:
            x[~mask] = np.nan
            flow[~mask] = np.nan
        return round_to(x, element), flow, mask

    query, query_flow, query_mask = side(sum(queries))
    key, key_flow, key_mask = side(sum(keys))
    bandwidths = [bandwidth * (1 + 0.5 * b) for b in range(len(queries))]
    return Case(
        query, key, query_flow, key_flow, queries, keys, bandwidth=bandwidths, query_mask=query_mask,
        key_mask=key_mask, element=element, **options,
    )  # fmt: skip


def grouped(case: Case, groups: int = 5, seed: int = 0) -> Case:
    """``case`` with groups, of which some are equal in the low 32 of their bits alone."""
    rng = np.random.default_rng(seed)
    words = lambda n: np.sort(rng.integers(groups, size=n)) * (2**32 + 1) - (rng.integers(2, size=n) << 40)
    case.query_group, case.key_group = (words(len(x)).astype(np.int64) for x in (case.query, case.key))
    return case


def far_case(far: str, element: str, **options: Any) -> Case:
    """Rows of one side (``far``: query or key) at up to 13.2 bandwidths from all of the other: their W falls to 2^-126."""
    case = make_case([70], [130], 40, element=element, flow_scale=0.01, **{"symmetric": True, **options})
    flow = case.query_flow if far == "query" else case.key_flow
    flow[:, 0] += 13.2 * np.linspace(0, 1, len(flow), dtype=np.float32) ** 4
    return case


def assert_right(name: str, got, truth, same_dtype, slack: float = 8 * 2.0**-24, size=None) -> None:
    """Max and mean error at most 2x those of the same precision's dense evaluation, plus slack x own size.

    ``size`` is the size of the terms where the quantity is a sum in which they cancel; default its own.
    """
    got, truth, same = (np.atleast_1d(np.asarray(x, np.float64)) for x in (got, truth, same_dtype))
    assert got.shape == truth.shape, f"{name}: shape {got.shape}, expected {truth.shape}"
    finite = np.isfinite(truth)
    assert np.array_equal(got[~finite], truth[~finite]), f"{name}: infinities differ"
    if not finite.any():
        return
    error, allowed = np.abs(got[finite] - truth[finite]), np.abs(same[finite] - truth[finite])
    size = np.abs(truth if size is None else size)[finite]
    assert np.isfinite(error).all(), f"{name}: {np.count_nonzero(~np.isfinite(error))} values are not finite"
    for kind in (np.max, np.mean):
        limit = 2 * kind(allowed) + slack * kind(size)
        assert kind(error) <= limit, f"{name}: {kind.__name__} error {kind(error):.3g}, limit {limit:.3g}"


# Upstream gradients of lse and of the positive term from normal ones; a mean loss has one of each sign in all rows.
SIGNS = {
    "any": lambda grad: grad,
    "of a loss": lambda grad: np.abs(grad) * [[1], [-1]],
    "of a loss, negated": lambda grad: np.abs(grad) * [[-1], [1]],
    "zero in some rows": lambda grad: np.where(np.arange(grad.shape[1]) % 3 == np.arange(2)[:, None], 0, grad),
    "zero for lse": lambda grad: grad * [[0], [1]],
}


def check(host: Host, case: Case, seed: int = 1, grad_scale: float = 1.0, signs: str = "any") -> None:
    """Forward and backward of ``case`` against float64."""
    rng = np.random.default_rng(seed)
    truth = reference.forward(case)
    same = reference.forward(case, np.float32)
    sizes = reference.positive_sizes(case)
    got = host.forward(case)
    # tf32 rounds its inputs to 11 bits: an allowance for s = q.k / t and what is linear in it
    tf32 = case.element == "float32" and not case.full_float
    loose = 2.0**-10 / case.temperature if tf32 else 0.0
    for side in range(2 if case.symmetric else 1):
        for index, name in enumerate(("lse", "weight sum", "positive", "weight log sum")):
            slack = 8 * 2.0**-24 + (loose if index in (0, 2) else 0)
            size = sizes[side] if name == "positive" and case.positives == "outside" else None
            assert_right(f"{name} of side {side}", got[side][index], truth[side][index], same[side][index], slack, size)
    column_stats = truth[1] if case.symmetric else None
    row_grad = SIGNS[signs](rng.normal(size=(2, len(case.query))) * grad_scale)
    column_grad = rng.normal(size=(2, len(case.key))) * grad_scale if case.symmetric else None
    arguments = (np.float32(truth[0]), None if column_stats is None else np.float32(column_stats),
                 np.float32(row_grad), None if column_grad is None else np.float32(column_grad))  # fmt: skip
    truth_gradients = reference.backward(case, *arguments)
    same_gradients = reference.backward(case, *arguments, dtype=np.float32)
    got_gradients = host.backward(case, *arguments)
    for name, x, y, z in zip(
        ("dquery", "dkey", "dtemperature"), got_gradients, truth_gradients, same_gradients, strict=True
    ):
        if name == "dtemperature":  # a sum of signed terms: its size is that of the terms
            slack = 64 * 2.0**-24 * (1 + np.abs(truth_gradients[0]).sum() / max(abs(float(y)), 1e-30))
        else:
            slack = 16 * 2.0**-24 + (EPSILON[case.element] if case.element != "float32" else 0)
            z = round_to(z, case.element)
        assert_right(name, x, y, z, slack + loose * 4)
    for gradient, mask in ((got_gradients[0], case.query_mask), (got_gradients[1], case.key_mask)):
        if mask is not None:
            assert (gradient[~mask] == 0).all(), "a masked row has a gradient"
