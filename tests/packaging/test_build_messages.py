"""What setup.py says where it cannot build all: an old setuptools, a compiler that lacks a flag or fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REAL = shutil.which("g++")


def setup_py(*words: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs a checkout")
    environment = {**os.environ, "LAPAROFLOW_CUDA": "0", **variables}
    return subprocess.run([sys.executable, "setup.py", *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_an_old_setuptools_is_named_with_the_remedy(tmp_path: Path) -> None:
    """65.5 comes with Python 3.11; it would stop at `project.license`, with a message about a schema."""
    package = tmp_path / "setuptools"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '65.5.0'\nerrors = None\ndef setup(**_): raise AssertionError\n")
    done = setup_py("--version", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert "needs setuptools 77 or newer, and this is 65.5.0" in done.stderr
    assert 'pip install "setuptools>=77"' in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout whose only source is one small function, so that a build takes a second."""
    if sys.platform != "linux" or REAL is None:
        pytest.skip("needs Linux and g++")
    folder = tmp_path / "tree"
    (folder / "csrc" / "cpu").mkdir(parents=True)
    (folder / "laparoflow_kernels").mkdir()
    (folder / "laparoflow_kernels" / "__init__.py").touch()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (folder / "csrc" / "old_glibc.h").touch()
    (folder / "csrc" / "cpu" / "small.cpp").write_text('extern "C" int three() { return 3; }\n')
    return folder


def compiler(folder: Path, case: str) -> str:
    """A C++ compiler that does `case` with its arguments before it goes on as g++."""
    path = folder / "c++"
    path.write_text(f'#!/bin/sh\nfor word in "$@"; do case "$word" in {case} esac; done\nexec {REAL} "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_a_compiler_without_openmp_builds_without_it(tree: Path, tmp_path: Path) -> None:
    refuses = compiler(tmp_path, '-fopenmp*) echo "error: unsupported option $word" >&2; exit 1;;')
    done = setup_py("build_ext", "--inplace", folder=tree, CXX=refuses)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"laparoflow: {refuses} does not take -fopenmp-simd: building without it" in done.stderr
    assert list((tree / "laparoflow_kernels").glob("_C*.so"))
    assert json.loads((tree / "laparoflow_kernels" / "_C.json").read_text())["cuda"] is None


def test_a_compiler_that_fails_ends_with_what_to_type(tree: Path, tmp_path: Path) -> None:
    fails = compiler(tmp_path, '*small.cpp) echo "error: cannot" >&2; exit 1;;')
    done = setup_py("build_ext", "--inplace", folder=tree, CXX=fails)
    assert done.returncode != 0
    assert f"laparoflow: {fails} could not build the native backend" in done.stderr
    assert "LAPAROFLOW_NATIVE=0 pip install ." in done.stderr and "Traceback" not in done.stderr.partition("laparoflow: ")[2]
