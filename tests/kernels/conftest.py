"""The backends under test: ("native", "cpu") always; on a machine with a GPU also native and triton on it.

LAPAROFLOW_TEST_BACKENDS="triton:cpu" replaces the list (used to run these tests in Triton's interpreter).
A backend that cannot run fails the tests, it does not skip them: a suite that shrinks must not stay green.
"""

from __future__ import annotations

import os

import pytest
import torch


def backends_under_test() -> list[tuple[str, str]]:
    if os.environ.get("LAPAROFLOW_TEST_BACKENDS"):
        pairs = [item.split(":") for item in os.environ["LAPAROFLOW_TEST_BACKENDS"].split(",")]
        return [(name, device) for name, device in pairs]
    return [("native", "cpu")] + ([("native", "cuda"), ("triton", "cuda")] if torch.cuda.is_available() else [])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"backend", "device"} <= set(metafunc.fixturenames):
        pairs = backends_under_test()
        metafunc.parametrize(("backend", "device"), pairs, ids=[f"{name}-{device}" for name, device in pairs])


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill fresh memory with NaN, so that an unwritten output shows."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(deterministic)
