"""Runs tests/triton/interpreted in a process with TRITON_INTERPRET=1, one test here per file there; the quick run a part."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"


QUICK = {
    "test_statistics_and_gradients.py": "gaussian_loss and frame-all or wide_rows_that_are",
    "test_weight_operands.py": "flows_out_of_reach and clusters",
}
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))


@pytest.mark.parametrize(
    ("file", "chosen"),
    [*QUICK.items(), *(pytest.param(file, "", marks=[pytest.mark.slow] if file in QUICK else []) for file in FILES)],
)
def test_interpreted_file_passes(file: str, chosen: str) -> None:
    environment = dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.triton.ordered_products", "--no-header",
        "-k", chosen, str(FOLDER / file),
    ]  # fmt: skip
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FOLDER.parents[2], check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed and int(passed[1]) > 0, run.stdout
