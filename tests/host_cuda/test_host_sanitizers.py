"""The CUDA kernel sources under AddressSanitizer with UBSan, and under ThreadSanitizer as a race check."""

from __future__ import annotations

import subprocess
from pathlib import Path

import host_build
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", sorted(host_build.SANITIZERS))
def test_sanitizer_finds_nothing(sanitizer: str, built: Path, tmp_path: Path) -> None:
    program = host_build.build(tmp_path, sanitizer=sanitizer)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "12 cases"
    assert "Sanitizer" not in done.stderr, done.stderr[-4000:]
    assert "runtime error" not in done.stderr, done.stderr[-4000:]
