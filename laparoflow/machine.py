"""How many cores and threads a process may use, said in a line."""

from __future__ import annotations

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Cores that this process may use: its affinity, and the container's quota where there is one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or "max"
        return count


def wait_asleep() -> None:
    """Threads that wait for each other sleep, unless the environment says otherwise; to be called before torch is loaded.

    OpenMP's threads look again and again whether the others are done, for milliseconds. Where another program has the core
    that one of them needs, this burns the others' time: beside ten busy processes on two cores, 12 steps of pretraining took
    50 CPU seconds and now take 15.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def threads_of(processes: int, before: int) -> int:
    """Threads of each of so many processes on this machine: their share of the cores, never more than before."""
    return max(1, min(before, cores() // max(1, processes)))


def told(processes: int, threads: int, workers: int) -> str:
    """The choice in a line, with a warning where others use the same cores."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy = f"; other work keeps about {load:.0f} of them busy" if load > cores() / 2 else ""
    counts = [f"{processes} process{'es' * (processes > 1)} of {threads} thread{'s' * (threads > 1)}"]
    counts += [f"{workers} reading worker{'s' * (workers > 1)} of 1 thread each"] * bool(workers)
    return f"{cores()} cores: {', '.join(counts)}{busy}"
