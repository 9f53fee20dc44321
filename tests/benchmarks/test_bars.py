"""Goals: pass and fail by their figures, and "not measured" with the reason."""

from __future__ import annotations

from results_file import results

from benchmarks import bars, tables
from benchmarks.case import Case


def by_name(found: dict) -> dict[str, bars.Bar]:
    return {bar.name: bar for bar in bars.bars(found)}


def test_ratios_and_verdicts() -> None:
    found = by_name(results(
        ("ours: native", Case(8192), 0.25), ("chunked PyTorch", Case(8192), 1.0), ("dense PyTorch", Case(8192), 1.0),
        ("ours: native", Case(8192, threads=1), 0.45), ("ours: native", Case(8192, symmetric=True), 0.375),
        ("ours: native", Case(8192, needs="query"), 0.2), ("ours: native", Case(8192, needs="key"), 0.25),
        ("ours: native", Case(65536), 10.0),
        ("torch.compile of dense", Case(8192), 0.6), ("torch.compile of dense", Case(65536), None),
    ))  # fmt: skip
    assert found["N=8192 D=64: times faster than chunked"].measured == 4.0
    assert found["N=8192 D=64: times faster than chunked"].passed
    assert found["N=8192 D=64: times faster than dense"].passed is False
    assert found["N=8192: speed-up from 1 thread to all"].passed
    assert found["symmetric: time over the plain form"].passed is False
    assert found["query gradient only: time over both gradients"].measured == 0.8
    assert found["key gradient only: time over both gradients"].passed is False
    assert found["no gradient: time over both gradients"].measured == 1.0
    assert found["N=65,536 D=64: MB above inputs and gradients"].measured == 5.0
    assert found["every N: least times faster than torch.compile"].measured == 2.4
    share = 6 * 8192**2 * 64 / 0.25 / 1e11
    assert found["N=8192 D=64: share of the square product's rate"].measured == share
    assert found["minutes of the whole run"].measured == 10.0


def test_what_is_missing_is_not_measured() -> None:
    found = by_name(results(("ours: native", Case(8192), 0.25), ("KeOps", Case(8192), None)))
    keops = found["N=8192: times faster than KeOps"]
    assert keops.measured is None
    assert keops.passed is None
    assert "out of memory" in keops.note
    assert "not in this run" in found["N=8192 D=64: times faster than dense"].note
    text = "\n".join(tables.bars_table(bars.to_json(list(found.values()))))
    assert "not measured" in text and "pass" in text
