"""Rows: what is measured, what is refused and why, and that a wrong peer shows no speed."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import floors, harness, machine, tables, worker
from benchmarks.case import PARTS, Case
from benchmarks.harness import Run
from benchmarks.peers import BY_NAME, Peer
from benchmarks.plan import entries

RATES = {"product_float32": 1e11, "exp": 1e9, "copy": 1e10}


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run_of(**settings: float) -> Run:
    return Run("cpu", threads=1, effort=0.01, rates=dict(RATES), **settings)


def test_a_worker_process_measures_every_part() -> None:
    run = run_of()
    run.add(Case(256), BY_NAME["chunked PyTorch"])
    found = run.results()
    assert [row["part"] for row in found["rows"]] == list(PARTS)
    for row in found["rows"]:
        assert row["status"] == "ok", row
        assert row["min"] <= row["seconds"] <= row["max"]
        assert row["rounds"] >= 3
        assert row["ratio"] == pytest.approx(row["seconds"] / row["floor_seconds"])
        assert (row["extra_bytes"] is None) == (row["part"] == "backward")
    assert {"cpu", "cores", "threads", "packages", "commit", "date"} <= set(found["machine"])
    json.dumps(found)
    assert "| chunked PyTorch |" in tables.page(found)


def test_a_wrong_peer_shows_no_speed() -> None:
    right = BY_NAME["dense PyTorch"]
    off = dataclasses.replace(right, loss=lambda case, part, x: right.loss(case, part, x) * 1.001)
    parts = worker.measure(off, Case(256, dim=8), effort=0.01, threads=1)
    for part in PARTS:
        assert parts[part]["status"] == "wrong"
        assert "seconds" not in parts[part]
        assert "off by" in parts[part]["reason"]


def test_a_peer_that_raises_is_told_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(case: Case, part: str, inputs: object) -> object:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setitem(worker.BY_NAME, "broken", Peer("broken", lambda case: None, loss))  # type: ignore[arg-type]
    request = {"peer": "broken", "case": {"pixels": 64}, "effort": 0.01, "threads": 1}
    assert worker.run(request)["status"] == "out of memory"


def test_refusals_name_their_reason() -> None:
    run = run_of()
    run.memory_bytes = 1e9
    run.add(Case(65536), BY_NAME["dense PyTorch"])
    run.add(Case(1024), BY_NAME["FlexAttention"])
    run.add(Case(1024), BY_NAME["torch linear_cross_entropy"])
    chunked = BY_NAME["chunked PyTorch"]
    measured = {"peer": chunked.name, "label": "", "part": "both"}
    run.rows += [measured | {"case": dataclasses.asdict(case), "seconds": seconds}
                 for case, seconds in ((Case(1024), 0.4), (Case(1024, symmetric=True), 99.0))]  # fmt: skip
    run.add(Case(16384), chunked)
    rows = [row for row in run.rows if row["part"] == "forward"]
    assert [row["status"] for row in rows] == ["out of memory", "not applicable", "not applicable", "too slow"]
    assert "GB" in rows[0]["reason"] and "GPU" in rows[1]["reason"] and "one positive" in rows[2]["reason"]
    assert rows[3]["reason"].startswith("102 s expected from 0.4 s at N=1,024")
    used_up = run_of(run_seconds=-1)
    used_up.add(Case(64), chunked)
    assert used_up.rows[0]["status"] == "not run"


def test_answers_of_processes_that_died() -> None:
    assert harness.answer_of(-9, "", "")["status"] == "out of memory"
    assert harness.answer_of(1, "", "Traceback\nBad: thing") == {"status": "failed", "reason": "exit status 1: Bad: thing"}
    assert harness.answer_of(0, 'noise\n{"forward": 1}\n', "") == {"forward": 1}
    assert harness.answer_of(0, "noise", "")["status"] == "failed"


def test_floor_is_the_largest_of_its_three_bounds() -> None:
    case = Case(1000, dim=50)
    assert floors.work(case, "both") == {"products": 3e8, "exp": 2e6, "bytes": 2000 * (200 + 8) + 400_000}
    rates = {"product_float32": 3e8, "exp": 2e6, "copy": 1e12}
    assert floors.floor_seconds(case, "both", rates) == (1.0, "products")
    assert floors.floor_seconds(case, "both", {**rates, "exp": 1e6}) == (2.0, "exp")
    assert floors.floor_seconds(case, "both", {**rates, "copy": 1e3})[1] == "bytes"


def test_rates_are_positive_and_plausible() -> None:
    assert 1e7 < floors.product_rate("float32", "cpu", 128) < 1e15
    assert 1e6 < floors.exp_rate("cpu") < 1e13


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_plans_hold_what_they_promise(device: str) -> None:
    plan = entries(False, device)
    cases = [case for case, _ in plan]
    labels = [case.label for case in cases]
    assert len(labels) == len(set(labels))
    assert {case.dim for case in cases} == {64, 128, 256} | ({384, 768} if device == "cuda" else set())
    assert any(case.frames == 8 and case.pixels == 3136 for case in cases)
    assert any(case.symmetric for case in cases) and any(case.one_hot for case in cases)
    assert len({case.dtype for case in cases}) == 3
    named = {peer.name for _, peers in plan for peer in peers}
    assert named == set(BY_NAME)
    assert {peer.name for _, peers in entries(False, device, ["KEOPS", "loop"]) for peer in peers} == {
        "KeOps", "ours: native, loop over frames"
    }  # fmt: skip


def test_importing_the_peers_needs_none_of_their_packages() -> None:
    import subprocess

    code = (
        "import sys; import benchmarks.plan; "
        "assert not {'pykeops', 'liger_kernel', 'cut_cross_entropy', 'triton_backend'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, check=True)


def test_a_run_goes_on_from_an_earlier_one_of_the_same_commit_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_machine(commit: str) -> Run:
        run = run_of()
        run.machine |= {"commit": commit, "uncommitted_changes": False}
        return run

    def asked(self: Run, case: Case, peer: Peer) -> dict:
        return {part: {"status": next(statuses), "seconds": 0.5, "reason": ""} for part in PARTS}

    monkeypatch.setattr(Run, "_ask", asked)
    statuses = iter(["ok"] * 3 + ["ok", "ok", "failed"] + ["ok"] * 3)
    first, chunked, dense = on_machine("one"), BY_NAME["chunked PyTorch"], BY_NAME["dense PyTorch"]
    first.add(Case(64), chunked)
    first.add(Case(64), dense)
    second = on_machine("one")
    second.go_on_from(json.loads(json.dumps(first.results())))
    assert {row["peer"] for row in second.rows} == {"chunked PyTorch"}
    second.add(Case(64), chunked)  # measured already: asks nobody
    second.add(Case(64), dense)
    assert [row["status"] for row in second.rows] == ["ok"] * 6
    assert next(statuses, None) is None
    with pytest.raises(ValueError, match="commit: expected two, got one"):
        on_machine("two").go_on_from(first.results())
    first.machine["uncommitted_changes"] = True
    with pytest.raises(ValueError, match="uncommitted_changes"):
        on_machine("one").go_on_from(first.results())


@pytest.mark.parametrize(("script", "found"), [
    ("echo '580.1, 1980 MHz'", {"driver_version": "580.1", "clocks.sm": "1980 MHz"}), ("exit 9", {}),
    ("echo '580.1, 1980 MHz'; echo '580.1, 345 MHz'", {}), (None, {}),
])  # fmt: skip
def test_the_clock_of_the_gpu_comes_from_nvidia_smi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, found: dict
) -> None:
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: None)
    assert machine.gpu_facts("driver_version,clocks.sm") == found


@pytest.mark.parametrize("name", ["cpu.json", "h200.json"])
def test_committed_results_are_read(name: str) -> None:
    results = json.loads((harness.ROOT / "benchmarks" / "results" / name).read_text())
    assert results["format"] == harness.FORMAT
    assert all(Case(**row["case"]).label == row["label"] for row in results["rows"])
    assert len(tables.page(results).splitlines()) > 20
