"""Builds the host execution once per test session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host_build
from host_calls import WARPGROUP, Host


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the plain build: libhost.so and its objects."""
    if host_build.compiler() is None:
        pytest.skip("no C++ compiler to build the host execution with")
    folder = tmp_path_factory.mktemp("host_cuda")
    host_build.build(folder)
    return folder


@pytest.fixture(scope="session")
def host(built: Path) -> Host:
    return Host(built / "libhost.so")


@pytest.fixture(scope="session")
def warpgroup_host(built: Path) -> Host:
    """The sm_90a path of the same library."""
    return Host(built / "libhost.so", **WARPGROUP)
