"""The numerics suite of every backend (tests/kernels) on the Triton kernels, in a process with TRITON_INTERPRET=1.

``thinned`` tells which combinations run; no tolerance differs from the other backends. The quick run takes some of them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("file", "chosen", "least"),
    [
        pytest.param("test_numerics.py", "", 90, marks=pytest.mark.slow),
        ("test_numerics.py", "(half_precision and outside-all) or (every_option_float32 and cauchy-outside-all-frame)", 2),
        pytest.param("test_edges.py", "", 10, marks=pytest.mark.slow),
        pytest.param("test_fuzz.py", "30", 1, marks=pytest.mark.slow),
        ("test_identities.py", "", 5),
        ("test_excluded_pairs.py", "triton", 5),
        ("test_derivatives.py", "", 5),
    ],
)
def test_shared_suite_passes(file: str, chosen: str, least: int) -> None:
    environment = dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    environment |= dict(LAPAROFLOW_TEST_BACKENDS="triton:cpu", LAPAROFLOW_TEST_DRAWS="3")
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.triton.ordered_products",
        "-p", "tests.triton.thinned", "--no-header", "-k", chosen, f"tests/kernels/{file}",
    ]  # fmt: skip
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed and int(passed[1]) >= least, run.stdout[-2000:]
    assert "skipped" not in run.stdout.splitlines()[-1], run.stdout[-2000:]
