"""The float64 truth of ``make gpu-check`` against autograd of the reference backend, and what it lets pass."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_measure, gpu_sanitized, gpu_truth
from laparoflow_kernels.backends import load_backend, reference
from laparoflow_kernels.problem import PairProblem

FORMS = [{}, {"positives": "inside"}, {"symmetric": True}, {"flow_kernel": "cauchy"}, {"flow_kernel": "tophat"}]


def problem(**options: object) -> PairProblem:
    """In float64, so that truth and autograd agree to roundings."""
    drawn = gpu_measure.make_problem(150, 8, "cpu", **options)
    sides = {name: getattr(drawn, name).detach().double().requires_grad_() for name in ("query", "key")}
    both = {name: getattr(drawn, name) for name in ("query_frames", "key_frames")}
    frames = {name: side._replace(flow=side.flow.double()) for name, side in both.items()}
    return dataclasses.replace(
        drawn, **sides, **frames, temperature=drawn.temperature.double(), inv_bandwidth=0.5 * drawn.inv_bandwidth.double()
    )


def statistics_and_gradients(
    given: PairProblem, statistics: Callable = reference.statistics
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, _columns = statistics(given)
    dq, dk = torch.autograd.grad((rows[0] - rows[2]).mean(), (given.query, given.key))
    return rows.detach(), dq, dk


@pytest.mark.parametrize("options", FORMS)
def test_truth_equals_autograd_of_the_reference(options: dict) -> None:
    given = problem(**options)
    assert max(gpu_truth.relative_errors(given, *statistics_and_gradients(given))) < 1e-12


@pytest.mark.parametrize("options", FORMS[:2])
def test_small_mistakes_are_wrong(options: dict) -> None:
    given = problem(**options)
    rows, dq, dk = statistics_and_gradients(given)
    lse_off = rows + 0.01 * torch.tensor([1.0, 0, 0, 0])[:, None]
    positive_off = rows + 0.01 * torch.tensor([0.0, 0, 1, 0])[:, None]
    nan = dk.clone()
    nan[0, 0] = torch.nan
    for given_rows, given_dq, given_dk, name in (
        (lse_off, dq, dk, "lse"), (positive_off, dq, dk, "positive"), (rows, 1.03 * dq, dk, "dq"),
        (rows, dq, 0.97 * dk, "dk"), (rows, dq, nan, "dk"), (rows, dq.roll(1, 0), dk, "dq"), (rows, dq, dk.flip(0), "dk"),
    ):  # fmt: skip
        reason = gpu_truth.wrong(gpu_truth.relative_errors(given, given_rows, given_dq, given_dk))
        assert reason is not None and f"{name} by" in reason
    assert gpu_truth.wrong(gpu_truth.relative_errors(given, rows, dq, dk)) is None


@pytest.mark.parametrize("options", FORMS[:3])
def test_the_native_backend_passes_in_bfloat16(options: dict) -> None:
    native = load_backend("native")
    reason = native.unavailable(torch.device("cpu"), torch.bfloat16)
    if reason:
        pytest.skip(reason)
    given = gpu_measure.make_problem(300, 64, "cpu", **options)
    rows, dq, dk = statistics_and_gradients(given, native.statistics)
    assert gpu_truth.wrong(gpu_truth.relative_errors(given, rows, dq, dk)) is None


def test_other_problems_are_refused() -> None:
    given = problem(negatives="dissimilar")
    with pytest.raises(ValueError, match="problem: expected one frame"):
        gpu_truth.sampled_truth(given, torch.zeros(4, 150))


def row(errors: list[float]) -> dict:
    case = dict.fromkeys(gpu_measure.CASE, 64)
    return {**case, "backend": "native", "part": "forward", gpu_measure.ERRORS: errors}


def test_a_wrong_gradient_fails_its_measurement(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    right, off = row([1e-7, 1e-6, 2e-3, 2e-3]), row([1e-7, 1e-6, 2e-3, 0.5])
    tiles = {"tiles": "key", "entries": []}
    monkeypatch.setitem(gpu_measure.MEASUREMENTS, "speed", lambda backends: iter([off, right, tiles]))
    assert gpu_measure.main(["speed", "native"]) == 1
    printed = capsys.readouterr()
    assert [json.loads(line) for line in printed.out.splitlines()] == [off, right, tiles]
    assert printed.err.startswith("native N=64 D=64") and "dk by 0.5" in printed.err
    monkeypatch.setitem(gpu_measure.MEASUREMENTS, "speed", lambda backends: iter([right, tiles]))
    assert gpu_measure.main(["speed", "native"]) == 0


def test_the_sanitized_calls_are_right_on_the_cpu(capsys: pytest.CaptureFixture) -> None:
    reason = load_backend("native").unavailable(torch.device("cpu"), torch.float32)
    if reason:
        pytest.skip(reason)
    assert gpu_sanitized.main(["--device", "cpu"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 48
    assert {row["dtype"] for row in rows} == {"bfloat16", "float16", "float32"} and {row["dim"] for row in rows} == {64, 200}


def test_a_wrong_sanitized_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = gpu_sanitized.loss_and_gradients

    def off(call: gpu_sanitized.Call, given: dict, backend: str) -> list[torch.Tensor]:
        results = exact(call, given, "reference")
        return [*results[:-1], results[-1] * (1.1 if backend == "native" else 1)]

    monkeypatch.setattr(gpu_sanitized, "calls", lambda: iter([gpu_sanitized.Call("float32", 64, "outside", False, False)]))
    monkeypatch.setattr(gpu_sanitized, "loss_and_gradients", off)
    assert gpu_sanitized.main(["--device", "cpu"]) == 1


def test_tuning_ends_with_the_tiles_that_won(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What ``tune`` prints after its timings, which need a GPU."""
    from laparoflow_kernels.backends.triton import tile_cache

    monkeypatch.setenv("LAPAROFLOW_TRITON_CACHE", str(tmp_path / "tiles.json"))
    monkeypatch.setattr(gpu_measure, "make_problem", lambda *_: None)
    monkeypatch.setattr(gpu_measure, "measure", lambda *_, **__: iter(()))
    tile_cache.forget()
    try:
        tile_cache.remember("forward|H200", 10**10, {"block_m": 128}, 1.0)
        (row,) = gpu_measure.tune(["triton"])
    finally:
        tile_cache.forget()
    assert row["tiles"] == "forward|H200" and row["entries"][0]["tile"] == {"block_m": 128}
