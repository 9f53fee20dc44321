"""The folders of ``csrc/cuda``: what each may include, and that the build takes every source file in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CUDA = ROOT / "csrc" / "cuda"
MAY_INCLUDE = {
    "common": {"common"},
    "sm80": {"common", "host", "sm80"},
    "sm90a": {"common", "host", "sm90a"},
    "host": {"common", "host", "sm80", "sm90a"},
}


def test_no_architecture_reaches_into_the_files_of_another() -> None:
    assert {path.name for path in CUDA.iterdir()} == set(MAY_INCLUDE)
    for path in CUDA.glob("*/*"):
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            target = (path.parent / name).resolve()
            if target.is_relative_to(CUDA):  # else of csrc/, or a host definition
                assert target.parent.name in MAY_INCLUDE[path.parent.name], f"{path}: {name}"
    # of host/, an architecture sees what launches its kernels and no more
    for path in CUDA.glob("sm*/*"):
        assert set(re.findall(r'"\.\./host/([^"]+)"', path.read_text())) <= {"launch.cuh"}, path


@pytest.mark.parametrize("suffix", [".cu", ".cpp"])
def test_the_build_takes_every_source_file(suffix: str) -> None:
    setup = (ROOT / "setup.py").read_text()
    places = re.findall(r'"(cuda/[^"]+)"', setup)
    taken = {path for place in places for path in (ROOT / "csrc").glob(place)}
    there = set(CUDA.rglob(f"*{suffix}"))
    assert there and there <= taken, there - taken
