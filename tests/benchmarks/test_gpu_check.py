"""``make gpu-check`` without a GPU: what it says, what it runs, and what a second call repeats."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["build", "native", "triton", "sm80", "memcheck", "racecheck", "bench"]


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """In another folder: the build begins with removing the extension."""
    return subprocess.run(["make", "-f", ROOT / "Makefile", *words], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_runs(tmp_path: Path) -> None:
    run = make(tmp_path, "gpu-check", f"GPU={tmp_path}/out", f"GPU_PYTHON={sys.executable}")
    assert run.returncode != 0
    assert "torch sees no GPU on this machine" in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def machine(tmp_path: Path) -> list[str]:
    """Words for make where Python and compute-sanitizer only say what they were asked, and fail where a file says so."""
    for name in ("python", "compute-sanitizer"):
        program = tmp_path / name
        program.write_text(f'''#!/bin/sh
echo "{name} $*" | tee -a {tmp_path}/calls
[ ! -f {tmp_path}/broken ] || ! echo "$*" | grep -qf {tmp_path}/broken
''')
        program.chmod(0o755)
    return [f"GPU={tmp_path}/out", f"GPU_PYTHON={tmp_path}/python", f"PATH={':'.join([str(tmp_path), *os.get_exec_path()])}"]


def test_a_second_call_repeats_what_did_not_pass_and_keeps_every_log(machine: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("-k triton")
    first = make(tmp_path, "-k", "gpu-check", *machine)
    assert first.returncode != 0
    done = {path.name for path in (tmp_path / "out").iterdir()}
    assert done == {f"{stage}.log" for stage in STAGES} | set(STAGES) - {"triton"}
    assert "-k triton" in (tmp_path / "out" / "triton.log").read_text()
    (tmp_path / "broken").unlink()
    (tmp_path / "calls").unlink()
    assert make(tmp_path, "gpu-check", *machine).returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2 and "is_available" in calls[0] and "-k triton" in calls[1]


def test_the_kernels_of_a_build_that_failed_are_not_tested(machine: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("build_ext")
    assert make(tmp_path, "-k", "gpu-check", *machine).returncode != 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"build.log", "triton", "triton.log"}


def test_the_sanitizer_fails_on_what_it_finds_and_its_tests_exist(machine: list[str], tmp_path: Path) -> None:
    assert make(tmp_path, "sanitizer", *machine).returncode == 0
    calls = [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("compute-sanitizer")]
    assert [line.split("--tool ")[1].split()[0] for line in calls] == ["memcheck", "racecheck"]
    for line in calls:
        assert "--error-exitcode 9" in line
        file = next(word for word in line.split() if word.startswith("tests/"))
        chosen = re.search(r"native and \((.*)\)", line)[1].split(" or ")  # type: ignore[index]
        assert all(f"def test_{name}(" in (ROOT / file).read_text() for name in chosen)
