"""Peak memory of this process: the operating system's figure on a CPU, the allocator's on a GPU."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def peak_bytes() -> int:
    """Highest resident memory of the process (VmHWM) since it started or since ``PeakMemory`` began."""
    return _status("VmHWM") if STATUS.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class PeakMemory:
    """Bytes above what the process held when this was made.

    On a CPU freed memory is handed back to the system first and the system's high-water mark is set back to what is
    resident; where it cannot be set back, the mark of everything before counts as held (extra memory is then a lower bound,
    and ``exact`` is False).
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.exact = True
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
            self.exact = False
            self.start = peak_bytes()

    def extra(self) -> int:
        """Peak bytes above the start, from the start until now."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - self.start
        return max(0, peak_bytes() - self.start)
