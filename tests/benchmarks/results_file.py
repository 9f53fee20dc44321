"""A small results file made up of known figures."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.case import PARTS, Case


def row(peer: str, case: Case, part: str, seconds: float | None, **more: Any) -> dict[str, Any]:
    """One row as the harness writes it; without seconds it did not run."""
    state = {"status": "ok", "seconds": seconds, "iqr": (seconds or 0) / 10, "rounds": 3, "extra_bytes": 5e6, "ratio": 1.5}
    refused = {"status": "out of memory", "reason": "needs about 90.0 GB"}
    return {
        "peer": peer, "label": case.label, "part": part, "case": asdict(case),
        "floor_seconds": 0.1, "bound": "products", **(refused if seconds is None else state), **more,
    }  # fmt: skip


def results(*measured: tuple[str, Case, float | None]) -> dict[str, Any]:
    """A results file of (peer, case, seconds); each part takes the same time."""
    machine = {
        "device": "cpu", "gpu": None, "cpu": "A processor", "threads": 2, "cores": 2, "packages": {"torch": "2.15.0"},
        "date": "2026-01-02T03:04:05Z", "commit": "0123456789abcdef", "uncommitted_changes": False,
    }  # fmt: skip
    rows = [row(peer, case, part, seconds) for peer, case, seconds in measured for part in PARTS]
    return {"format": 1, "machine": machine, "seconds": 600.0, "rows": rows}
