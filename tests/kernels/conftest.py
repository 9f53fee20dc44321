"""The backends under test: ("native", "cpu") always; on a machine with a GPU also native and triton on it.

LAPAROFLOW_TEST_BACKENDS="triton:cpu" replaces the list (used to run these tests in Triton's interpreter).
A backend that cannot run fails the tests, it does not skip them: a suite that shrinks must not stay green.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

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
        marks = {"cuda": [pytest.mark.gpu]}
        cases = [pytest.param(*pair, id="-".join(pair), marks=marks.get(pair[1], ())) for pair in pairs]
        metafunc.parametrize(("backend", "device"), cases)


@pytest.fixture(autouse=True)
def poisoned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fill fresh memory with NaN, so that an unwritten output shows.

    On the CPU torch does so in its deterministic mode. On a GPU that mode would hide the backward's default, which takes one
    pass: there blocks of NaN go back to the allocator, which hands them out again.
    """
    device = request.getfixturevalue("device") if "device" in request.fixturenames else "cpu"
    if device == "cuda":
        for size in (2**8, 2**12, 2**16, 2**19, 2**22):
            blocks = [torch.full((size,), torch.nan, device=device) for _ in range(8)]
            del blocks
        yield
        return
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(deterministic)
