"""The truth of a repeated frame is the truth of the large one, and what is wrong is found."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks import floors, inputs, worker
from benchmarks.case import PARTS, Case
from benchmarks.peers import BY_NAME
from laparoflow_kernels import flow_infonce


@pytest.mark.parametrize("options", [
    {}, {"positives": "inside"}, {"negatives": "dissimilar"}, {"symmetric": True}, {"one_hot": True}, {"frames": 2},
])  # fmt: skip
def test_truth_equals_the_reference_on_the_whole_case(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "SMALL_FRAME", 256)
    inputs.truth.cache_clear()
    case = Case(768, dim=8, dtype="float64", **options)
    drawn = inputs.make_inputs(case)
    if case.one_hot:
        logits = drawn.query[0] @ drawn.key[0].T / case.temperature
        loss = torch.nn.functional.cross_entropy(logits, drawn.target[0])
    else:
        loss = flow_infonce(
            drawn.query, drawn.key, drawn.query_flow, drawn.key_flow, temperature=case.temperature, positives=case.positives,
            negatives=case.negatives, symmetric=case.symmetric, backend="reference",
        )  # fmt: skip
    loss.backward()
    assert inputs.small_size(768) == 256
    found, _ = inputs.judge(case, "both", loss.item(), drawn.query.grad, drawn.key.grad)
    inputs.truth.cache_clear()
    assert max(found.values()) < 1e-12


@pytest.mark.parametrize("name", ["ours: native", "ours: reference", "dense PyTorch", "chunked PyTorch"])
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"frames": 2}])
def test_peers_are_right(name: str, options: dict) -> None:
    case, peer = Case(300, dim=16, **options), BY_NAME[name]
    reason = peer.why_not(case)
    if reason:
        pytest.skip(reason)
    for part in ("both", "backward"):
        drawn = inputs.make_inputs(case)
        loss = peer.loss(case, part, drawn)
        loss.backward()
        assert inputs.judge(case, part, loss.item(), drawn.query.grad, drawn.key.grad)[1] is None


@pytest.mark.parametrize("name", ["ours: native", "dense PyTorch", "torch linear_cross_entropy"])
def test_one_hot_peers_are_right(name: str) -> None:
    case, peer = Case(300, dim=16, one_hot=True), BY_NAME[name]
    reason = peer.why_not(case)
    if reason:
        pytest.skip(reason)
    drawn = inputs.make_inputs(case)
    loss = peer.loss(case, "both", drawn)
    loss.backward()
    assert inputs.judge(case, "both", loss.item(), drawn.query.grad, drawn.key.grad)[1] is None


def wrong(case: Case, part: str, *made: object) -> str:
    return inputs.judge(case, part, *made)[1] or ""  # type: ignore[arg-type]


def test_small_mistakes_are_wrong() -> None:
    case = Case(256, dim=8)
    loss, dq, dk = inputs.truth(case)
    assert wrong(case, "both", loss, dq, dk) == ""
    shifted = dq.clone()
    shifted[0, 17] = dq[0, 18]
    nan = dk.clone()
    nan[0, 0, 0] = float("nan")
    assert "dq off" in wrong(case, "both", loss, shifted, dk)
    assert "dk off" in wrong(case, "both", loss, dq, nan)
    assert "dk off" in wrong(case, "both", loss, dq, dk[:, :5])
    assert "loss off" in wrong(case, "both", loss * (1 + 1e-5), dq, dk)


def test_sizes_that_cannot_repeat_are_refused() -> None:
    with pytest.raises(ValueError, match="pixels: expected a size with a divisor"):
        inputs.small_size(7919)
    assert inputs.small_size(100_000) == 2000
    assert dataclasses.replace(Case(8192), threads=1).label == "N=8192 D=64 float32 1 thread(s)"


def test_a_missing_or_unasked_gradient_is_wrong() -> None:
    case = Case(256, dim=8)
    loss, dq, dk = inputs.truth(case)
    assert "query was asked for and not made" in wrong(case, "both", loss, None, dk)
    assert "query was not asked for and made" in wrong(case, "forward", loss, dq, None)
    assert wrong(case, "forward", loss, None, None) == ""
    only = Case(256, dim=8, needs="query")
    assert wrong(only, "backward", None, dq, None) == ""
    assert "key was not asked for and made" in wrong(only, "both", loss, dq, dk)


@pytest.mark.parametrize("needs", ["query", "key"])
def test_one_gradient_alone_takes_fewer_products(needs: str) -> None:
    rows = worker.measure(BY_NAME["ours: native"], Case(300, dim=16, needs=needs), effort=0.01, threads=1)
    assert {part: row["status"] for part, row in rows.items()} == dict.fromkeys(PARTS, "ok")
    assert floors.work(Case(300, needs=needs), "both")["products"] == 4 * 300**2 * 64
