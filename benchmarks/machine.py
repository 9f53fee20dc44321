"""What a results file says about where it was measured; the time, peak memory and clock of a process that measures."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from laparoflow.machine import cores
from laparoflow_kernels.backends.native import build_facts

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "numpy", "triton", "pykeops", "cut-cross-entropy", "liger-kernel")
GPU_FACTS = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


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
        "cores": cores(),
        "threads": threads,
        "memory_bytes": psutil.virtual_memory().total,
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


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds that a call takes: by the clock on a CPU, by the events of a GPU."""
    if device == "cpu":
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


def peak_bytes(device: str) -> int:
    """The most memory that was held since ``forget_peak``: resident in this process (VmHWM), or by the GPU's allocator."""
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def forget_peak(device: str) -> int:
    """Set the high-water mark back to what is held now, and say how much that is.

    On a CPU freed memory is handed back to the system first. Where the mark cannot be set back, that of everything before
    counts as held (the memory above it is then a lower bound).
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes(device)
