"""The table of notes/2026-11-26-cuda-kernels.md is the one that the results file of `make gpu-check` gives."""

from __future__ import annotations

import pytest

from benchmarks import gpu_table
from benchmarks.readme import difference


def row(part: str, **changes) -> dict:
    values = dict(
        backend="native", N=100_000, D=64, part=part, positives="outside", symmetric=False, deterministic=False,
        seconds=6e-3, extra_bytes=2**20, goal_seconds=4e-3,
    )  # fmt: skip
    return {**values, **changes}


def test_the_page_of_this_repository_agrees_with_the_results_file() -> None:
    assert difference(gpu_table.PAGE, gpu_table.RESULTS, gpu_table.block) is None


def test_floors_are_the_slower_of_products_and_exponentials() -> None:
    exponential = 1e10 / (16 * 132 * 1.8e9)
    product = 2 * 1e10 * 256 / 780e12
    assert gpu_table.floor(row("forward"), "native") == 2 * exponential
    assert gpu_table.floor(row("forward", D=256), "triton, tuned") == product
    assert gpu_table.floor(row("backward", D=128), "native") == pytest.approx(3 * product / 2)
    assert gpu_table.floor(row("backward", deterministic=True), "native") == 4 * exponential


def test_each_case_is_one_line_with_its_goal() -> None:
    about = dict(
        device="GPU", nvidia_smi={"driver_version": "1"}, torch="2", triton="3", commit="0123456789abcdef", date="2026-11"
    )
    rows = [row("forward"), row("backward", seconds=9e-3, goal_seconds=None)]
    slow = [row(part, backend="triton", seconds=0.012, goal_seconds=3e-3) for part in ("forward", "backward")]
    stages = {"speed": {"rows": rows + slow}, "speed_after_tuning": {"rows": slow}}
    text = gpu_table.block({"about": about, "stages": stages})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[2] == ["native", "100,000", "64", "6.00", "5.3", "4.0", "9.00", "5.3", "", "1"]
    assert [line[0] for line in lines[2:]] == ["native", "triton, default tiles", "triton, tuned"]
    assert lines[3][5] == "4.0"  # three quarters of the speed


def test_a_complete_run_has_rows_that_are_no_times() -> None:
    """Tiles of the tuning, a case that ended after its forward, one that is wrong; neither nvidia-smi nor Triton."""
    about = dict(device="GPU", nvidia_smi={}, torch="2", triton="", commit="", date="2026-11-26T00:00:00Z")
    case = [row("forward"), row("backward")]
    off = [row(part, D=128, relative_error_of_lse_positive_dq_dk=[0, 0, 0, 0.5]) for part in ("forward", "backward")]
    tiles = {"tiles": ["key"], "entries": []}
    stages = {
        "speed": {"rows": [tiles, row("forward", D=256), *case, *off, tiles, row("forward", D=256)]},
        "tune": {"rows": [tiles, tiles, tiles]}, "tests": {"status": "stopped"},
    }  # fmt: skip
    text = gpu_table.block({"about": about, "stages": stages})
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 3 and "| 64 |" in lines[2]
    assert text.splitlines()[-1].endswith("device events. GPU, torch 2, 2026-11-26.")
    assert gpu_table.block({"about": {**about, "nvidia_smi": None}, "stages": {}})
