"""A run: each peer on each case in a process of its own; what cannot run says why in its row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
import torch

from benchmarks import floors
from benchmarks.case import PARTS, Case
from benchmarks.machine import ROOT, describe
from benchmarks.peers import Peer
from benchmarks.worker import Effort

Row = dict[str, Any]
FORMAT = 1
FINISHED = ("ok", "not applicable", "out of memory", "wrong")


@dataclass(frozen=True)
class Limits:
    """What a run may use.

    Attributes:
        memory_bytes: extra memory for one peer; one that is known to need more is not started.
        slow_seconds: a peer whose forward + backward is expected to take longer, by the growth of its pairs, is not started.
        process_seconds: a peer's process is stopped after this.
        run_seconds: nothing is started after this; what runs then has another minute.
    """

    memory_bytes: float
    slow_seconds: float = 75.0
    process_seconds: float = 240.0
    run_seconds: float = 18 * 60.0


def default_memory(device: str) -> float:
    """60 % of what is free now."""
    free = psutil.virtual_memory().available if device == "cpu" else torch.cuda.mem_get_info()[0]
    return 0.6 * free


@dataclass
class Run:
    """One run of the benchmark. ``results()`` is complete up to the last finished peer at any time."""

    device: str
    limits: Limits
    effort: Effort
    started: float = field(default_factory=time.monotonic)
    rates: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    pace: dict[tuple[Any, ...], tuple[Case, float]] = field(default_factory=dict)
    machine: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        # at the start: what is measured is this commit, on a machine as busy as it is now
        self.machine = describe(self.device, self.effort.threads)

    def go_on_from(self, earlier: Row) -> None:
        """Take over what an earlier run finished; what failed, was too slow or was not reached runs again.

        Raises:
            ValueError: it was of another commit or machine, or either has changes that no commit holds.
        """
        for fact in ("commit", "gpu", "cpu", "threads"):
            if earlier["machine"].get(fact) != self.machine[fact]:
                raise ValueError(f"{fact}: expected {self.machine[fact]}, got {earlier['machine'].get(fact)}")
        if earlier["machine"]["uncommitted_changes"] or self.machine["uncommitted_changes"] or not self.machine["commit"]:
            raise ValueError("uncommitted_changes: expected a tree that its commit describes")
        self.rates = dict(earlier["rates"])
        self.started -= earlier["seconds"]
        again = {(row["peer"], row["label"]) for row in earlier["rows"] if row["status"] not in FINISHED}
        self.rows += [row for row in earlier["rows"] if (row["peer"], row["label"]) not in again]

    def measure_rates(self, dtypes: set[str]) -> None:
        """Measure the machine's rates; the best of this and every earlier time counts."""
        torch.set_num_threads(self.effort.threads)
        measured = floors.measure_rates(self.device, dtypes)
        self.rates = {name: max(rate, self.rates.get(name, 0.0)) for name, rate in measured.items()}

    def add(self, case: Case, peer: Peer) -> None:
        """Measure one peer on one case, or say why not; what is there already is not measured again."""
        rows = [row for row in self.rows if (row["peer"], row["label"]) == (peer.name, case.label)]
        if not rows:
            answer = self._refusal(case, peer) or self._ask(case, peer)
            common = {"peer": peer.name, "label": case.label, "case": asdict(case)}
            parts = answer.get("parts") or {part: answer for part in PARTS}
            rows = [{**common, "part": part, **parts[part]} for part in PARTS]
            self.rows += rows
        for row in rows:
            if row["part"] == "both" and row.get("seconds"):
                self.pace[self._pace_key(case, peer)] = (case, row["seconds"])

    def results(self) -> dict[str, Any]:
        """Everything for a results file, with each row's floor at the rates known now."""
        for row in self.rows:
            case = Case(**row["case"])
            if f"product_{case.dtype}" in self.rates:
                row["floor_seconds"], row["bound"] = floors.floor_seconds(case, row["part"], self.rates)
                row["ratio"] = row["seconds"] / row["floor_seconds"] if row.get("seconds") else None
        return {
            "format": FORMAT, "machine": self.machine,
            "limits": asdict(self.limits), "effort": asdict(self.effort), "rates": self.rates,
            "seconds": time.monotonic() - self.started, "rows": self.rows,
        }  # fmt: skip

    def _refusal(self, case: Case, peer: Peer) -> Row | None:
        reason = peer.why_not(case)
        if reason is not None:
            return {"status": "not applicable", "reason": reason}
        needed, allowed = peer.predicted_bytes(case), self.limits.memory_bytes
        if needed > allowed:
            reason = f"needs about {needed / 1e9:.1f} GB, more than the {allowed / 1e9:.1f} GB it may use"
            return {"status": "out of memory", "reason": reason}
        before, seconds = self.pace.get(self._pace_key(case, peer), (case, 0.0))
        expected = seconds * case.pairs * case.dim / (before.pairs * before.dim)
        if expected > self.limits.slow_seconds:
            reason = f"{expected:.0f} s expected from {seconds:.1f} s at N={before.pixels:,}, D={before.dim}; at most "
            return {"status": "too slow", "reason": f"{reason}{self.limits.slow_seconds:.0f} s here"}
        if time.monotonic() - self.started > self.limits.run_seconds:
            return {"status": "not run", "reason": f"the {self.limits.run_seconds / 60:.0f} minutes of the run were used up"}
        return None

    @staticmethod
    def _pace_key(case: Case, peer: Peer) -> tuple[Any, ...]:
        form = case.positives, case.negatives, case.symmetric, case.one_hot, case.needs, case.threads, case.deterministic
        return peer.name, case.dtype, *form

    def _ask(self, case: Case, peer: Peer) -> Row:
        effort = asdict(self.effort) | {"threads": case.threads or self.effort.threads}
        request = json.dumps({"peer": peer.name, "case": asdict(case), "effort": effort})
        threads = str(effort["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"}
        left = self.limits.run_seconds + 60 - (time.monotonic() - self.started)
        limit = min(self.limits.process_seconds, left)
        try:
            process = subprocess.run(
                [sys.executable, "-m", "benchmarks.worker", request], cwd=ROOT, capture_output=True, text=True, check=False,
                timeout=limit, env=environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"status": "too slow", "reason": f"stopped after {limit:.0f} s"}
        return answer_of(process.returncode, process.stdout, process.stderr)


def answer_of(status: int, output: str, log: str) -> Row:
    """The worker's answer, or what became of it."""
    lines = output.strip().splitlines()
    if status == 0 and lines:
        try:
            return json.loads(lines[-1])
        except ValueError:
            return {"status": "failed", "reason": f"no answer; its last line was {lines[-1][:200]!r}"}
    if status == -9:
        return {"status": "out of memory", "reason": "the system ended its process"}
    last = log.strip().splitlines()[-1:] or [""]
    return {"status": "failed", "reason": f"exit status {status}: {last[0][:200]}"}
