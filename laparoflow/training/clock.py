"""Where the time of training goes: waiting for data, making views, all the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Share of the time that was spent waiting, over the interval since it was last read."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.since = self.begun
        self.waited = 0.0

    def batch_arrived(self) -> None:
        """Call when a batch is there."""
        self.waited += time.perf_counter() - self.since

    def batch_done(self) -> None:
        """Call when its step is over."""
        self.since = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """(seconds since the last read, share of them spent waiting), and start anew."""
        now = time.perf_counter()
        seconds = max(now - self.begun, 1e-9)
        share = self.waited / seconds
        self.begun, self.waited = now, 0.0
        return seconds, share


class RateMeter:
    """Frames per second of one part of a step; a GPU is asked only when the rate is read."""

    def __init__(self) -> None:
        self.frames = 0
        self.seconds = 0.0
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, frames: int, device: torch.device) -> Iterator[None]:
        """Count what is done inside as work on ``frames`` frames."""
        if device.type == "cuda":
            with torch.cuda.device(device):
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                yield
                last.record()
            self._pending.append((first, last))
        else:
            begun = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - begun
        self.frames += frames

    def read(self) -> float:
        """Frames per second since the last read (0 for none), and start anew."""
        for first, last in self._pending:
            last.synchronize()
            self.seconds += first.elapsed_time(last) / 1e3
        rate = self.frames / self.seconds if self.seconds > 0 else 0.0
        self.frames, self.seconds, self._pending = 0, 0.0, []
        return rate
