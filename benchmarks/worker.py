"""One peer on one case, in this process: memory first, then correctness, then time.

    python -m benchmarks.worker '{"peer": ..., "case": {...}, ...}'     prints one JSON object on the last line

A process of its own for each pair, so that nobody's memory or warm threads help or hurt the next.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import judge, make_inputs
from benchmarks.machine import forget_peak, gpu_facts, peak_bytes, timed
from benchmarks.peers import BY_NAME, Peer

WARM_UP_PIXELS = 256
SINGLE_RUN_SECONDS, FIRST_RUN_COUNTS_SECONDS = 8.0, 1.0
MOST_ROUNDS = 200


class Work:
    """The three parts of one peer on one case."""

    def __init__(self, peer: Peer, case: Case) -> None:
        self.peer, self.case, self.inputs = peer, case, make_inputs(case)

    def part(self, name: str) -> float:
        """Seconds of one run; clearing gradients and the forward of "backward" are not timed."""
        self.forget()
        if name == "backward":
            return timed(self.peer.loss(self.case, name, self.inputs).backward, self.case.device)
        return timed(partial(self._run, name), self.case.device)

    def _run(self, name: str) -> None:
        with torch.set_grad_enabled(name == "both"):
            loss = self.peer.loss(self.case, name, self.inputs)
        if name == "both":
            loss.backward()
        self.loss = loss.detach()

    def result(self) -> tuple[float | None, Tensor | None, Tensor | None]:
        """(loss, dq, dk) of the last part, None for what it did not make."""
        return None if self.loss is None else self.loss.item(), self.inputs.query.grad, self.inputs.key.grad

    def forget(self) -> None:
        """Let go of the last results."""
        self.inputs.query.grad = self.inputs.key.grad = None
        self.loss: Tensor | None = None


def measure(peer: Peer, case: Case, effort: float, threads: int) -> dict[str, Any]:
    """{part: row} of one peer; a row that is wrong holds no time. ``effort``: seconds aimed at per part."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(case.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would count as time
    work = Work(peer, case)
    # libraries loaded, threads started, code generated
    warm = work if peer.generates_code else Work(peer, replace(case, pixels=min(case.pixels, WARM_UP_PIXELS)))
    for part in ("forward", "both"):
        warm.part(part)
    warm.forget()
    held, found = forget_peak(case.device), {}
    for part in ("forward", "both", "backward")[: 2 if peer.gradients_in_forward else 3]:
        first, peak = work.part(part), peak_bytes(case.device)
        # the peak stands since the forward: of the backward alone nothing is known
        extra = {"forward": peak - held, "both": peak - held - case.gradient_bytes}.get(part)
        found[part] = first, None if extra is None else max(0, extra), work.result()
    rows: dict[str, Any] = {"backward": {"status": "not applicable", "reason": "it forms its gradients in the forward"}}
    for part, (first, extra, made) in found.items():
        errors, reason = judge(case, part, *made)
        state = {"status": "wrong", "reason": reason} if reason else {"status": "ok", **timing(work, part, first, effort)}
        rows[part] = {"errors": errors, "extra_bytes": extra, **state}
    return rows


def timing(work: Work, part: str, first: float, seconds: float) -> dict[str, Any]:
    """Median and spread in seconds, and on a GPU the SM clock right after the last run.

    A first run of a second and more counts; one of many seconds is the only one.
    """
    found = [first] if first >= FIRST_RUN_COUNTS_SECONDS else []
    rounds = min(MOST_ROUNDS, max(3, math.ceil(seconds / max(first, 1e-6))))
    found += [work.part(part) for _ in range(rounds if not found else 2 if first < SINGLE_RUN_SECONDS else 0)]
    clock = gpu_facts("clocks.sm").get("clocks.sm") if work.case.device == "cuda" else None
    quarters = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else (0.0, 0.0, 0.0)
    return {
        "seconds": statistics.median(found), "iqr": quarters[2] - quarters[0], "min": min(found), "max": max(found),
        "rounds": len(found), "sm_clock": clock,
    }  # fmt: skip


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request of the harness; what fails is told, not raised."""
    try:
        return measure(BY_NAME[request["peer"]], Case(**request["case"]), request["effort"], request["threads"])
    except Exception as error:  # a peer may raise anything; its row shows it
        first_line = (str(error).strip().splitlines() or [""])[0]
        full = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "allocate memory" in first_line
        return {"status": "out of memory" if full else "failed", "reason": f"{type(error).__name__}: {first_line[:200]}"}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))), flush=True)
