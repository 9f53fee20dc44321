"""Goals: pass and fail by their figures, and "not measured" with the reason."""

from __future__ import annotations

import pytest
from results_file import results

from benchmarks import tables
from benchmarks.case import Case
from benchmarks.goals import goals


def by_name(found: dict) -> dict[str, dict]:
    return {goal["name"]: goal for goal in goals(found)}


def test_ratios_and_verdicts() -> None:
    found = by_name(results(
        ("ours: native", Case(8192), 0.25), ("chunked PyTorch", Case(8192), 1.0), ("dense PyTorch", Case(8192), 1.0),
        ("ours: native", Case(8192, threads=1), 0.45), ("ours: native", Case(8192, symmetric=True), 0.375),
        ("ours: native", Case(8192, needs="query"), 0.2), ("ours: native", Case(8192, needs="key"), 0.25),
        ("ours: native", Case(65536), 10.0),
        ("torch.compile of dense", Case(8192), 0.6), ("torch.compile of dense", Case(65536), None),
    ))  # fmt: skip
    assert found["N=8192 D=64: times faster than chunked PyTorch"]["measured"] == 4.0
    assert found["N=8192 D=64: times faster than chunked PyTorch"]["passed"]
    assert found["N=8192 D=64: times faster than dense PyTorch"]["passed"] is False
    assert found["N=8192: speed-up from 1 thread to all"]["passed"]
    assert found["symmetric: time over the plain form"]["passed"] is False
    assert found["query gradient only: time over the plain form"]["measured"] == 0.8
    assert found["key gradient only: time over the plain form"]["passed"] is False
    assert found["no gradient: time over the plain form"]["measured"] == 1.0
    assert found["N=65,536 D=64: MB above inputs and gradients"]["measured"] == 5.0
    assert found["every N: least times faster than torch.compile of dense"]["measured"] == 2.4
    share = 6 * 8192**2 * 64 / 0.25 / 1e11
    assert found["N=8192 D=64: share of the square product's rate"]["measured"] == share
    assert found["minutes of the whole run"]["measured"] == 10.0


def test_what_is_missing_is_not_measured() -> None:
    found = by_name(results(("ours: native", Case(8192), 0.25), ("KeOps", Case(8192), None)))
    keops = found["N=8192: times faster than KeOps"]
    assert keops["measured"] is None
    assert keops["passed"] is None
    assert "out of memory" in keops["note"]
    assert "not in this run" in found["N=8192 D=64: times faster than dense PyTorch"]["note"]
    text = "\n".join(tables.goals_table(list(found.values())))
    assert "not measured" in text and "pass" in text


def test_goals_of_a_gpu_take_milliseconds_and_shares_of_the_large_rate() -> None:
    large = Case(100_000, dtype="bfloat16", device="cuda")
    frames = Case(3136, frames=64, dtype="bfloat16", device="cuda")
    given = results(("ours: native", large, 6e-3), ("ours: native", frames, 6e-3 * frames.pairs / large.pairs / 0.8))
    given["machine"]["device"] = "cuda"
    found = by_name(given)
    forward = found[f"{large.label}: ms of the forward"]
    assert forward["measured"] == pytest.approx(6.0) and not forward["passed"]
    assert found[f"{large.label}: ms of the backward"]["passed"]
    share = found[f"{frames.label}: share of the large forward's pair rate"]
    assert share["measured"] == pytest.approx(0.8) and not share["passed"]
