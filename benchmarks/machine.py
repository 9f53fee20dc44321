"""What a results file says about where it was measured; the peak memory and the clock of a process that measures."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import platform
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from laparoflow_kernels.backends.native import build_facts

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "numpy", "triton", "pykeops", "cut-cross-entropy", "liger-kernel")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GPU_FACTS = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def default_threads() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def output(*command: str) -> str | None:
    """What a command prints in this checkout, or None where it cannot run."""
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def gpu_facts(query: str = GPU_FACTS) -> dict[str, str]:
    """What nvidia-smi says of torch's GPU, or of the only one it lists (a MIG device has a uuid of its own).

    Empty where there is no nvidia-smi, or several GPUs of which none has torch's uuid.
    """
    command = ("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    text = (output(*command, "-i", f"GPU-{uuid}") if uuid is not None else None) or output(*command) or ""
    values = [value.strip() for value in text.split(",")] if len(text.splitlines()) == 1 else []
    names = query.split(",")
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else {}


def describe(device: str, threads: int) -> dict[str, Any]:
    """Machine, versions, commit and date."""
    measured = ("laparoflow_kernels", "csrc", "benchmarks", "setup.py", ":!benchmarks/results")
    changes = output("git", "status", "--porcelain", "--untracked-files=no", "--", *measured)
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": device,
        "cpu": cpu_model(),
        "cores": default_threads(),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": list(os.getloadavg()),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "gpu_facts": gpu_facts() if device == "cuda" else {},
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "build": {name: str(value) for name, value in build_facts().items()},
        "packages": {name: version(name) for name in PACKAGES},
        "commit": output("git", "rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
    }


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def peak_bytes() -> int:
    """Highest resident memory of the process (VmHWM) since it started or since ``PeakMemory`` began."""
    return _status("VmHWM") if STATUS.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class PeakMemory:
    """Bytes above what the process held when this was made: the system's figure on a CPU, the allocator's on a GPU.

    On a CPU freed memory is handed back to the system first and the system's high-water mark is set back to what is
    resident; where it cannot be set back, the mark of everything before counts as held (extra memory is then a lower bound).
    """

    def __init__(self, device: str) -> None:
        self.device = device
        gc.collect()
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
            return
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            CLEAR.write_text("5")
            self.start = _status("VmRSS")
        except (OSError, AttributeError):
            self.start = peak_bytes()

    def extra(self) -> int:
        """Peak bytes above the start, from the start until now."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - self.start
        return max(0, peak_bytes() - self.start)
