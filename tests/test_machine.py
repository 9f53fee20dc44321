"""Threads and cores: what a container grants counts, and nobody's own choice is raised."""

import os
import subprocess
import sys

import pytest

from laparoflow import machine


def test_the_quota_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    assert machine.cores() == 8
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cores() == 8
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    assert machine.cores() == 2


def test_processes_share_the_cores_and_a_smaller_choice_stays(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert [machine.threads_of(processes, 64) for processes in (1, 2, 3, 20)] == [8, 4, 2, 1]
    assert machine.threads_of(1, 1) == 1


def test_what_was_chosen_is_said(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.5, 0, 0))
    assert machine.told(2, 2, 0) == "4 cores: 2 processes of 2 threads"
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (3.2, 0, 0))
    assert machine.told(1, 4, 2) == (
        "4 cores: 1 process of 4 threads, 2 reading workers of 1 thread each; other work keeps about 3 of them busy"
    )


@pytest.mark.parametrize(("given", "spins"), [({}, "0"), ({"GOMP_SPINCOUNT": "77"}, "77")])
def test_waiting_threads_sleep_unless_told_otherwise(given, spins):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_WAIT", "GOMP_"))}
    code = "from laparoflow.cli import main; main(['--version']); import torch"
    environment |= {**given, "OMP_DISPLAY_ENV": "VERBOSE"}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if "GOMP_SPINCOUNT" not in answer.stderr:
        pytest.skip("this torch does not use GNU's OpenMP")
    assert f"GOMP_SPINCOUNT = '{spins}'" in answer.stderr
