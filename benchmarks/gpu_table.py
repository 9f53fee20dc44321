"""The table of notes/2026-11-26-cuda-kernels.md, written from the results file of ``make gpu-check``.

    python -m benchmarks.gpu_table [--check]

Beside each time stands its floor on an H200: the slower of the matrix products at 780 TFLOP/s and of the exponentials at 16
per clock and multiprocessor (132 of them, 1.8 GHz). One pass forms S, dq and dk (6 N^2 D FLOPs), two passes form S twice (8
N^2 D).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from benchmarks import gpu_truth, tables
from benchmarks.files import write_atomically
from benchmarks.gpu_measure import ERRORS
from benchmarks.machine import ROOT
from benchmarks.readme import difference, insert

RESULTS = ROOT / "benchmarks" / "results" / "gpu_check.json"
PAGE = ROOT / "notes" / "2026-11-26-cuda-kernels.md"
PRODUCTS, EXPONENTIALS = 780e12, 16 * 132 * 1.8e9  # a second
ONE_PASS_DEPTH = 128
CASE = ("backend", "N", "D", "positives", "symmetric", "deterministic")  # that of a backward is its forward's
# Stages of the check that measure, and what their rows of the native or triton backend are; a stage of the file may bring
# "labels" of its own.
STAGES = {
    "speed": {"native": "native", "triton": "triton, default tiles"},
    "speed_of_sm80_kernels": {"native": "native, the sm_80 kernels"},
    "limits": {"native": "native", "triton": "triton, default tiles"},
    "speed_after_tuning": {"triton": "triton, tuned"},
}


def floor(row: dict[str, Any], label: str) -> float:
    """Seconds that products or exponentials alone take; the exponentials as many as the kernels form, one or two a pair."""
    pairs, dim = float(row["N"]) ** 2 * (2 if row["symmetric"] and row["part"] == "forward" else 1), row["D"]
    forward, native = row["part"] == "forward", label.startswith("native")
    one_pass = native and dim <= ONE_PASS_DEPTH and not row["deterministic"]
    products = 2 if forward else 6 if one_pass else 8
    exponentials = (1.25 if "sm_80" in label or not native else 2.0) * (1 if forward or one_pass else 2)
    return max(products * pairs * dim / PRODUCTS, exponentials * pairs / EXPONENTIALS)


def block(results: dict[str, Any]) -> str:
    """Forward and backward of every measured case: milliseconds, goal, floor, memory."""
    lines = []
    for stage, record in results["stages"].items():
        labels = record.get("labels", STAGES.get(stage, {}))
        for forward, backward in _pairs(record.get("rows", [])):
            label = labels.get(forward["backend"])
            if label is None:
                continue
            case = ["inside"] * (forward["positives"] == "inside")
            case += [name for name in ("symmetric", "deterministic") if forward[name]]
            lines.append([
                ", ".join([label, *case]), f"{forward['N']:,}", str(forward["D"]), *_times(forward, label),
                *_times(backward, label), f"{forward['extra_bytes'] / 2**20:,.0f}",
            ])  # fmt: skip
    header = ["kernels", "N = M", "D", "forward, ms", "floor", "goal", "backward, ms", "floor", "goal", "extra MB"]
    about = results["about"]
    driver = (about.get("nvidia_smi") or {}).get("driver_version")
    named = [("driver", driver), *((name, about.get(name)) for name in ("torch", "triton"))]
    known = [about["device"], *(f"{name} {value}" for name, value in named if value)]
    known += [f"commit {about['commit'][:10]}"] if about.get("commit") else []
    caption = (
        "bfloat16, gaussian, positives outside, one frame; medians of device events. "
        f"{', '.join([*known, about['date'][:10]])}."
    )
    if "how" in about:
        caption += f" The file was {about['how']}"
    return "\n".join([*tables.markdown(header, lines), "", caption])


def _pairs(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Forward and backward of each case. A stage also gives rows of other kinds, and may have ended between the two; a case
    that is off against float64 shows no time."""
    for forward, backward in pairwise(rows):
        if (forward.get("part"), backward.get("part")) != ("forward", "backward"):
            continue
        errors = forward.get(ERRORS)
        if all(forward.get(name) == backward.get(name) for name in CASE) and not (errors and gpu_truth.wrong(errors)):
            yield forward, backward


def _times(row: dict[str, Any], label: str) -> list[str]:
    goal = row["goal_seconds"]
    if goal is not None and label.startswith("triton"):
        goal /= 0.75  # three quarters of the speed asked of CUDA C++
    return [f"{row['seconds'] * 1e3:.2f}", f"{floor(row, label) * 1e3:.1f}", "" if goal is None else f"{goal * 1e3:.1f}"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 when they differ")
    options = parser.parse_args(arguments)
    if options.check:
        wrong = difference(PAGE, RESULTS, block)
        print(wrong or f"{PAGE} agrees with {RESULTS}")
        return 1 if wrong else 0
    write_atomically(PAGE, insert(PAGE.read_text(), block(json.loads(RESULTS.read_text()))))
    print(f"{PAGE}: table of {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
