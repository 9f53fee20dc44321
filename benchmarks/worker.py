"""One peer on one case, in this process: memory first, then correctness, then time.

    python -m benchmarks.worker '{"peer": ..., "case": {...}, ...}'     prints one JSON object on the last line

A process of its own for each pair, so that nobody's memory or warm threads help or hurt the next.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import PARTS, Case
from benchmarks.inputs import Inputs, errors, make_inputs, wrong
from benchmarks.machine import PeakMemory, gpu_facts
from benchmarks.peers import BY_NAME, Peer

WARM_UP_PIXELS = 256
SINGLE_RUN_SECONDS, FIRST_RUN_COUNTS_SECONDS = 8.0, 1.0
MOST_ROUNDS = 200


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds aimed at per part, CPU threads."""

    seconds: float = 2.0
    threads: int = 1


class Work:
    """The three parts of one peer on one case; each returns the seconds that it took."""

    def __init__(self, peer: Peer, case: Case) -> None:
        self.case = case
        self.inputs: Inputs = make_inputs(case)
        self.losses = {part: partial(peer.loss, case, part) for part in PARTS}

    def part(self, name: str) -> float:
        """Seconds of one run; clearing gradients and the forward of "backward" are not timed."""
        self.forget()
        if name == "forward":
            return self._timed(self._no_gradient)
        return self._timed(self._both if name == "both" else self.losses["backward"](self.inputs).backward)

    def result(self) -> tuple[float | None, Tensor | None, Tensor | None]:
        """(loss, dq, dk) of the last part, None for what it did not make."""
        return None if self.loss is None else self.loss.item(), self.inputs.query.grad, self.inputs.key.grad

    def forget(self) -> None:
        """Let go of the last results."""
        self.inputs.query.grad = self.inputs.key.grad = None
        self.loss: Tensor | None = None

    def _no_gradient(self) -> None:
        with torch.no_grad():
            self.loss = self.losses["forward"](self.inputs)

    def _both(self) -> None:
        loss = self.losses["both"](self.inputs)
        loss.backward()
        self.loss = loss.detach()

    def _timed(self, run: Callable[[], object]) -> float:
        if self.case.device == "cpu":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def measure(peer: Peer, case: Case, effort: Effort) -> dict[str, Any]:
    """{"parts": {part: row}} of one peer; a row that is wrong holds no time."""
    torch.set_num_threads(case.threads or effort.threads)
    torch.use_deterministic_algorithms(case.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would count as time
    parts = tuple(part for part in PARTS if part != "backward" or not peer.gradients_in_forward)
    work = Work(peer, case)
    # libraries loaded, threads started, code generated
    warm = work if peer.generates_code else Work(peer, replace(case, pixels=min(case.pixels, WARM_UP_PIXELS)))
    for part in ("forward", "both"):
        warm.part(part)
    warm.forget()
    memory = PeakMemory(case.device)
    first, extra, result = {"forward": work.part("forward")}, {"forward": memory.extra()}, {"forward": work.result()}
    first["both"] = work.part("both")
    extra["both"] = max(0, memory.extra() - case.gradient_bytes)
    result["both"] = work.result()
    rows: dict[str, Any] = {"backward": {"status": "not applicable", "reason": "it forms its gradients in the forward"}}
    for part in parts:
        if part == "backward":
            first[part] = work.part(part)
            result[part] = work.result()
        loss, dq, dk = result.pop(part)
        rows[part] = {"errors": errors(case, loss, dq, dk), "extra_bytes": extra.get(part)}
        reason = wrong(case, rows[part]["errors"]) or wrong_set(case, part, {"query": dq, "key": dk})
        if reason:
            rows[part] |= {"status": "wrong", "reason": reason}
        else:
            rows[part] |= {"status": "ok", **timing(work, part, first[part], effort.seconds)}
    return {"parts": {part: rows[part] for part in PARTS}}


def wrong_set(case: Case, part: str, gradients: dict[str, Tensor | None]) -> str | None:
    """What is wrong with which gradients a part made: one that was asked for is missing, or one that was not is there."""
    for side, gradient in gradients.items():
        asked = part != "forward" and case.needs in ("both", side)
        if asked != (gradient is not None):
            return f"the gradient of {side} was {'asked for and not' if asked else 'not asked for and'} made"
    return None


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
    case = Case(**request["case"])
    try:
        return measure(BY_NAME[request["peer"]], case, Effort(**request["effort"]))
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        return {"status": "out of memory", "reason": first_line(error)}
    except Exception as error:  # a peer may raise anything; its row shows it
        text = first_line(error)
        return {"status": "out of memory" if "allocate memory" in text else "failed", "reason": text}


def first_line(error: BaseException) -> str:
    """What an error says, on one short line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def main(arguments: list[str]) -> None:
    print(json.dumps(run(json.loads(arguments[0]))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
