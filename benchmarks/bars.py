"""The goals of the CPU backend, each with the figure measured in the same run: passed, failed or not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.case import Case

OURS = "ours: native"
BASE = Case(8192)
FRAMES = Case(56 * 56, frames=8)


@dataclass(frozen=True)
class Bar:
    """A goal. ``measured`` is None, with the reason in ``note``, where a figure that it needs is missing."""

    name: str
    goal: str
    measured: float | None
    passed: bool | None
    note: str = ""


class Figures:
    """Rows of a results file by peer, case and part."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.rows = {(row["peer"], row["label"], row["part"]): row for row in results["rows"]}

    def row(self, peer: str, case: Case, part: str = "both") -> dict[str, Any]:
        """A measured row.

        Raises:
            LookupError: there is none, or it shows no time; the message says why.
        """
        row = self.rows.get((peer, case.label, part))
        if row is None:
            raise LookupError(f"{peer}, {case.label}: not in this run")
        if not row.get("seconds"):
            raise LookupError(f"{peer}, {case.label}: {row['status']}, {row['reason']}")
        return row

    def seconds(self, peer: str, case: Case) -> float:
        """Median seconds of forward + backward."""
        return self.row(peer, case)["seconds"]

    def times_faster(self, peer: str, case: Case) -> float:
        """How many times faster than a peer the native backend is, forward + backward."""
        return self.seconds(peer, case) / self.seconds(OURS, case)

    def times_the_plain_form(self, case: Case) -> float:
        """The time of the native backend on a case over that of the plain form at N = 8192, D = 64."""
        return self.seconds(OURS, case) / self.seconds(OURS, BASE)

    def share_of_products(self, case: Case) -> float:
        """6 N^2 D / time over the rate of a large square product timed in the same process."""
        row = self.row(OURS, case)
        if not row["product_rate"]:
            raise LookupError(f"{case.label}: no product was timed beside it")
        return 6 * case.pairs * case.dim / row["seconds"] / row["product_rate"]

    def least_times_faster_at_every_size(self, peer: str) -> float:
        """The least ``times_faster`` over all sizes of the plain case that both ran."""
        labels = {row["label"]: Case(**row["case"]) for row in self.results["rows"] if row["peer"] == peer}
        ratios = []
        for case in labels.values():
            if case == Case(case.pixels):
                try:
                    ratios.append(self.times_faster(peer, case))
                except LookupError:  # does not fit, or left out of this run: no ratio to compare
                    continue
        if not ratios:
            raise LookupError(f"{peer}: no size that both ran")
        return min(ratios)


def bars(results: dict[str, Any]) -> list[Bar]:
    """Every goal, the plain form first."""
    return list(_bars(Figures(results)))


def _bars(figures: Figures) -> Iterator[Bar]:
    for dim, share in ((64, 0.78), (128, 0.86), (256, 0.90)):
        case = Case(8192, dim)
        name = f"N=8192 D={dim}: share of the square product's rate"
        yield _bar(name, ">=", share, partial(figures.share_of_products, case))
    yield _bar("N=8192 D=64: times faster than chunked", ">=", 3.3, lambda: figures.times_faster("chunked PyTorch", BASE))
    yield _bar("N=8192 D=64: times faster than dense", ">=", 6.5, lambda: figures.times_faster("dense PyTorch", BASE))
    for name, options, limit in (
        ("symmetric", {"symmetric": True}, 1.45), ("inside", {"positives": "inside"}, 1.15),
        ("dissimilar negatives", {"negatives": "dissimilar"}, 1.15),
    ):  # fmt: skip
        case = Case(8192, **options)  # type: ignore[arg-type]
        yield _bar(f"{name}: time over the plain form", "<=", limit, partial(figures.times_the_plain_form, case))
    for needs in ("query", "key"):
        partial_case = Case(8192, needs=needs)
        name = f"{needs} gradient only: time over both gradients"
        yield _bar(name, "<=", 0.9, partial(figures.times_the_plain_form, partial_case))
    yield _bar(
        "no gradient: time over both gradients", "<=", 0.6,
        lambda: figures.row(OURS, BASE, "forward")["seconds"] / figures.seconds(OURS, BASE),
    )  # fmt: skip
    yield _bar(
        "every N: least times faster than torch.compile", ">=", 2.0,
        lambda: figures.least_times_faster_at_every_size("torch.compile of dense"),
    )  # fmt: skip
    yield _bar("N=8192: times faster than KeOps", ">=", 50.0, lambda: figures.times_faster("KeOps", BASE))
    yield _bar(
        "N=65,536 D=64: MB above inputs and gradients", "<", 300.0,
        lambda: figures.row(OURS, Case(65536))["extra_bytes"] / 1e6,
    )  # fmt: skip
    yield _bar(
        "B=8, 56x56: times faster than the loop over frames", ">=", 1.0,
        lambda: figures.times_faster("ours: native, loop over frames", FRAMES),
    )  # fmt: skip
    yield _bar("B=8, 56x56: times faster than chunked", ">=", 3.0, lambda: figures.times_faster("chunked PyTorch", FRAMES))
    yield _bar(
        "N=8192: speed-up from 1 thread to all", ">=", 1.7,
        lambda: figures.times_the_plain_form(Case(8192, threads=1)),
    )  # fmt: skip
    yield _bar("minutes of the whole run", "<", 20.0, lambda: figures.results["seconds"] / 60)


def _bar(name: str, relation: str, limit: float, measure: Callable[[], float]) -> Bar:
    goal = f"{relation} {limit:g}"
    try:
        measured = measure()
    except LookupError as error:
        return Bar(name, goal, None, None, f"not measured: {error.args[0]}")
    passed = {">=": measured >= limit, "<=": measured <= limit, "<": measured < limit}[relation]
    return Bar(name, goal, measured, passed)


def to_json(found: list[Bar]) -> list[dict[str, Any]]:
    """For a results file."""
    return [asdict(bar) for bar in found]
