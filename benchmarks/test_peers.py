"""The peers under pytest-benchmark, for a quick look at a few of them or for its own comparison of saved runs:

    python -m pytest benchmarks --benchmark-group-by=param:part            (BENCHMARK_PIXELS=4096 for another size)

``python -m benchmarks`` is the honest one: a process for each peer, memory, floors, reasons.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from benchmarks.case import PARTS, Case
from benchmarks.inputs import errors, wrong
from benchmarks.peers import ALL, Peer
from benchmarks.worker import Work

CASE = Case(int(os.environ.get("BENCHMARK_PIXELS", "1024")))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("peer", ALL, ids=lambda peer: peer.name)
def test_speed(peer: Peer, part: str, benchmark: Any) -> None:
    """One part of one peer; a peer that is wrong fails and shows no speed."""
    reason = peer.why_not(CASE)
    if reason is not None:
        pytest.skip(reason)
    if part == "backward" and peer.gradients_in_forward:
        pytest.skip("it forms its gradients in the forward")
    work = Work(peer, CASE)
    work.part(part)
    mistake = wrong(CASE, errors(CASE, *work.result()))
    assert mistake is None, mistake

    def before_each() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (work.prepare(part),), {}

    benchmark.pedantic(lambda run: run(), setup=before_each, rounds=10, warmup_rounds=1)
