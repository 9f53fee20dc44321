"""A run: each peer on each case in a process of its own; what cannot run says why in its row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import psutil
import torch

from benchmarks import floors
from benchmarks.case import PARTS, Case
from benchmarks.machine import ROOT, describe
from benchmarks.peers import Peer

Row = dict[str, Any]
FORMAT = 1
SLOW_SECONDS = 75.0  # a peer whose forward + backward is expected to take longer, by the growth of its pairs, is not started
PROCESS_SECONDS = 240.0  # a peer's process is stopped after this
FINISHED = ("ok", "not applicable", "out of memory", "wrong")


@dataclass
class Run:
    """One run of the benchmark. ``results()`` is complete up to the last finished peer at any time.

    Attributes:
        device: "cpu" or "cuda".
        threads: CPU threads of every peer.
        effort: seconds aimed at for each part of a peer.
        run_seconds: nothing is started after this; what runs then has another minute.
        memory_bytes: extra memory for one peer, 60 % of what is free; one that is known to need more is not started.
    """

    device: str
    threads: int
    effort: float = 1.5
    run_seconds: float = 18 * 60.0
    started: float = field(default_factory=time.monotonic)
    rates: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    memory_bytes: float = field(init=False)
    machine: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        # at the start: what is measured is this commit, on a machine as busy as it is now
        self.machine = describe(self.device, self.threads)
        free = psutil.virtual_memory().available if self.device == "cpu" else torch.cuda.mem_get_info()[0]
        self.memory_bytes = 0.6 * free

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
        torch.set_num_threads(self.threads)
        measured = floors.measure_rates(self.device, dtypes)
        self.rates = {name: max(rate, self.rates.get(name, 0.0)) for name, rate in measured.items()}

    def add(self, case: Case, peer: Peer) -> None:
        """Measure one peer on one case, or say why not; what is there already is not measured again."""
        if any((row["peer"], row["label"]) == (peer.name, case.label) for row in self.rows):
            return
        answer = self._refusal(case, peer) or self._ask(case, peer)
        parts = dict.fromkeys(PARTS, answer) if "status" in answer else answer
        common = {"peer": peer.name, "label": case.label, "case": asdict(case)}
        self.rows += [{**common, "part": part, **parts[part]} for part in PARTS]

    def results(self) -> dict[str, Any]:
        """Everything for a results file, with each row's floor at the rates known now."""
        for row in self.rows:
            case = Case(**row["case"])
            if f"product_{case.dtype}" in self.rates:
                row["floor_seconds"], row["bound"] = floors.floor_seconds(case, row["part"], self.rates)
                row["ratio"] = row["seconds"] / row["floor_seconds"] if row.get("seconds") else None
        seconds = time.monotonic() - self.started
        return {"format": FORMAT, "machine": self.machine, "rates": self.rates, "seconds": seconds, "rows": self.rows}

    def _refusal(self, case: Case, peer: Peer) -> Row | None:
        """The row of a peer that is not started."""
        needed, allowed = peer.predicted_bytes(case), self.memory_bytes
        before, seconds = self._last_of(case, peer) or (case, 0.0)
        expected = seconds * case.pairs * case.dim / (before.pairs * before.dim)
        used_up = time.monotonic() - self.started > self.run_seconds
        reasons = {
            "not applicable": peer.why_not(case),
            "out of memory": needed > allowed
            and f"needs about {needed / 1e9:.1f} GB, more than the {allowed / 1e9:.1f} GB it may use",
            "too slow": expected > SLOW_SECONDS
            and f"{expected:.0f} s expected from {seconds:.1f} s at N={before.pixels:,}, D={before.dim}; at most "
            f"{SLOW_SECONDS:.0f} s here",
            "not run": used_up and f"the {self.run_seconds / 60:.0f} minutes of the run were used up",
        }
        return next(({"status": status, "reason": reason} for status, reason in reasons.items() if reason), None)

    def _last_of(self, case: Case, peer: Peer) -> tuple[Case, float] | None:
        """The last case of this form, of any size, that the peer has done, and the seconds of its forward + backward."""
        form = {"pixels": 0, "dim": 0, "frames": 0}
        for row in reversed(self.rows):
            if (row["peer"], row["part"]) == (peer.name, "both") and row.get("seconds"):
                done = Case(**row["case"])
                if replace(done, **form) == replace(case, **form):
                    return done, row["seconds"]
        return None

    def _ask(self, case: Case, peer: Peer) -> Row:
        """The rows of a peer by part, from a process of its own; or the row of what became of it."""
        threads = case.threads or self.threads
        request = {"peer": peer.name, "case": asdict(case), "effort": self.effort, "threads": threads}
        environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        limit = min(PROCESS_SECONDS, self.run_seconds + 60 - (time.monotonic() - self.started))
        try:
            process = subprocess.run(
                [sys.executable, "-m", "benchmarks.worker", json.dumps(request)], cwd=ROOT, capture_output=True, text=True,
                check=False, timeout=limit, env=os.environ | environment,
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
