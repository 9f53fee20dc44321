"""The goals of our kernels, each with the figure measured in the same run: passed, failed or not measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks.case import Case

OURS = "ours: native"
BASE = Case(8192)
FRAMES = Case(56 * 56, frames=8)
LARGE = Case(100_000, dtype="bfloat16", device="cuda")
GPU_MILLISECONDS = {  # on an H200 at N = M = 100,000 and D = 64, 128, 256
    ("forward", "outside"): (5.8, 6.6, 8.8),
    ("forward", "inside"): (6.8, 7.8, 10.0),
    ("backward", "outside"): (8.9, 14.0, 27.0),
}


class Goal(NamedTuple):
    """What is measured, how it must stand to the limit (">=", "<=", "<"), the limit, and what measures it."""

    name: str
    relation: str
    limit: float
    measure: Callable[[], float]


class Figures:
    """Rows of a results file by peer, case and part."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.rows = {(row["peer"], Case(**row["case"]), row["part"]): row for row in results["rows"]}

    def row(self, case: Case, peer: str = OURS, part: str = "both") -> dict[str, Any]:
        """A measured row.

        Raises:
            LookupError: there is none, or it shows no time; the message says why.
        """
        row = self.rows.get((peer, case, part))
        if row is None:
            raise LookupError(f"{peer}, {case.label}: not in this run")
        if not row.get("seconds"):
            raise LookupError(f"{peer}, {case.label}: {row['status']}, {row['reason']}")
        return row

    def ratio(self, case: Case, over: Case, peer: str = OURS, part: str = "both", over_part: str = "both") -> float:
        """The time of ``peer`` on ``case`` over that of ours on ``over``."""
        return self.row(case, peer, part)["seconds"] / self.row(over, part=over_part)["seconds"]

    def share_of_products(self, case: Case) -> float:
        """6 N^2 D / time over the rate of a large square product timed in the same process."""
        row = self.row(case)
        if not row["product_rate"]:
            raise LookupError(f"{case.label}: no product was timed beside it")
        return 6 * case.pairs * case.dim / row["seconds"] / row["product_rate"]

    def least_ratio(self, peer: str) -> float:
        """The least ``ratio`` of a peer over all sizes of the plain case that both ran."""
        cases = [case for name, case, part in self.rows if name == peer and case == Case(case.pixels) and part == "both"]
        ran = [case for case in cases if all(self.rows.get((p, case, "both"), {}).get("seconds") for p in (peer, OURS))]
        if not ran:
            raise LookupError(f"{peer}: no size that both ran")
        return min(self.ratio(case, case, peer) for case in ran)

    def share_of_pair_rate(self, case: Case, part: str) -> float:
        """Pairs a second over those of the large case."""
        return case.pairs / LARGE.pairs / self.ratio(case, LARGE, part=part, over_part=part)


def cpu_goals(figures: Figures) -> list[Goal]:
    """Of the CPU backend, float32; the plain form first."""
    chunked, dense = "chunked PyTorch", "dense PyTorch"
    goals = [
        Goal(f"N=8192 D={dim}: share of the square product's rate", ">=", share, partial(figures.share_of_products, case))
        for dim, share, case in ((dim, share, Case(8192, dim)) for dim, share in ((64, 0.78), (128, 0.86), (256, 0.90)))
    ]
    for peer, case, where, limit in (
        (chunked, BASE, "N=8192 D=64", 3.3), (dense, BASE, "N=8192 D=64", 6.5), ("KeOps", BASE, "N=8192", 50.0),
        (f"{OURS}, loop over frames", FRAMES, "B=8, 56x56", 1.0), (chunked, FRAMES, "B=8, 56x56", 3.0),
    ):  # fmt: skip
        goals.append(Goal(f"{where}: times faster than {peer}", ">=", limit, partial(figures.ratio, case, case, peer)))
    compiled = "torch.compile of dense"
    goals.append(Goal(f"every N: least times faster than {compiled}", ">=", 2.0, partial(figures.least_ratio, compiled)))
    for name, options, limit in (
        ("symmetric", {"symmetric": True}, 1.45), ("inside", {"positives": "inside"}, 1.15),
        ("dissimilar negatives", {"negatives": "dissimilar"}, 1.15), ("query gradient only", {"needs": "query"}, 0.9),
        ("key gradient only", {"needs": "key"}, 0.9),
    ):  # fmt: skip
        case = replace(BASE, **options)  # type: ignore[arg-type]
        goals.append(Goal(f"{name}: time over the plain form", "<=", limit, partial(figures.ratio, case, BASE)))
    one_thread, largest = Case(8192, threads=1), Case(65536)
    return [
        *goals,
        Goal("no gradient: time over the plain form", "<=", 0.6, partial(figures.ratio, BASE, BASE, part="forward")),
        Goal("N=65,536 D=64: MB above inputs and gradients", "<", 300.0, lambda: figures.row(largest)["extra_bytes"] / 1e6),
        Goal("N=8192: speed-up from 1 thread to all", ">=", 1.7, partial(figures.ratio, one_thread, BASE)),
        Goal("minutes of the whole run", "<", 20.0, lambda: figures.results["seconds"] / 60),
    ]


def gpu_goals(figures: Figures) -> list[Goal]:
    """Of the CUDA backend, bfloat16: large sizes in milliseconds, and the sizes people train with beside them."""
    goals = []
    for (part, positives), limits in GPU_MILLISECONDS.items():
        for dim, limit in zip((64, 128, 256), limits, strict=True):
            case = replace(LARGE, dim=dim, positives=positives)
            measure = partial(lambda case, part: figures.row(case, part=part)["seconds"] * 1e3, case, part)
            goals.append(Goal(f"{case.label}: ms of the {part}", "<=", limit, measure))
    for pixels, frames in ((35_000, 1), (3136, 64), (12_544, 8)):
        for part in ("forward", "backward"):
            case = replace(LARGE, pixels=pixels, frames=frames)
            measure = partial(figures.share_of_pair_rate, case, part)
            goals.append(Goal(f"{case.label}: share of the large {part}'s pair rate", ">=", 0.85, measure))
    slow = replace(LARGE, deterministic=True)
    measure = partial(figures.ratio, slow, LARGE, part="backward", over_part="backward")
    return [*goals, Goal("deterministic: time over the plain backward", "<=", 1.2, measure)]


def goals(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Every goal for a results file; ``measured`` is None, with the reason in ``note``, where a figure is missing."""
    found = []
    for goal in (cpu_goals if results["machine"]["device"] == "cpu" else gpu_goals)(Figures(results)):
        row: dict[str, Any] = {"name": goal.name, "goal": f"{goal.relation} {goal.limit:g}", "note": ""}
        try:
            measured = goal.measure()
        except LookupError as error:
            found.append({**row, "measured": None, "passed": None, "note": f"not measured: {error.args[0]}"})
            continue
        passed = {">=": measured >= goal.limit, "<=": measured <= goal.limit, "<": measured < goal.limit}[goal.relation]
        found.append({**row, "measured": measured, "passed": passed})
    return found
