"""Sharing the work: between machines by the launcher's rank, between cores by processes.

Machines need no coordinator: each takes every world-size-th unit of a list that all of them build alike. A
unit is a clip, or, when there are fewer clips than machines, the shards of a clip that leave a given
remainder.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laparoflow.video.clip import ClipResult, ClipWriter
from laparoflow.video.plan import ClipPlan
from laparoflow.video.settings import PrepareSettings

REPORT_EVERY = 8  # frames between two messages of a worker


def rank_and_world_size(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Rank and world size that torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS) gave.

    SLURM_NTASKS is not looked at: it is also set in a batch script that runs once.

    Returns:
        (rank, world size), (0, 1) without a launcher.

    Raises:
        ValueError: if the variables contradict each other.
    """
    environment = os.environ if environment is None else environment
    for rank_name, size_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank_name in environment and size_name in environment:
            rank, size = int(environment[rank_name]), int(environment[size_name])
            if not 0 <= rank < size:
                raise ValueError(f"{rank_name} must be in [0, {size_name}), got {rank} of {size}")
            return rank, size
    return 0, 1


def units_of(clips: int, rank: int, world_size: int) -> list[tuple[int, int, int]]:
    """This rank's share of the work as (clip, part, parts)."""
    parts = -(-world_size // clips) if clips else 1
    every = [(clip, part, parts) for clip in range(clips) for part in range(parts)]
    return every[rank::world_size]


@dataclass(frozen=True)
class Task:
    """One worker's piece: shards of a clip whose number leaves the remainder part[0] when divided by part[1]."""

    cache: Path
    plan: ClipPlan
    settings: PrepareSettings
    part: tuple[int, int]


def split_tasks(tasks: list[Task], workers: int) -> list[Task]:
    """Split tasks further when there are fewer than workers."""
    pieces = max(1, -(-workers // max(1, len(tasks))))
    return [
        Task(task.cache, task.plan, task.settings, (task.part[0] + task.part[1] * piece, task.part[1] * pieces))
        for task in tasks
        for piece in range(pieces)
    ]


def run_here(task: Task, advance: Callable[[str, int], None]) -> ClipResult:
    """Run a task in this process; ``advance`` gets the clip's name and the number of source frames done."""
    return ClipWriter(task.cache, task.plan, task.settings, task.part, lambda: advance(task.plan.name, 1)).run()


_messages: Any = None


def _start_worker(messages: Any, parent: int) -> None:
    """Set up a worker process: where it reports to, and that it ends when its parent is gone."""
    global _messages
    _messages = messages

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_in_worker(task: Task) -> ClipResult:
    done = 0

    def advance(name: str, frames: int) -> None:
        nonlocal done
        done += frames
        if done % REPORT_EVERY == 0:
            _messages.put((name, REPORT_EVERY))

    return run_here(task, advance)


def run_tasks(
    tasks: list[Task], workers: int, advance: Callable[[str, int], None]
) -> tuple[list[ClipResult], list[Exception]]:
    """Run tasks in worker processes, or in this one if one worker is enough.

    Args:
        tasks: what to do; independent of one another.
        workers: number of processes.
        advance: called with a clip's name and a number of source frames as they are done.

    Returns:
        Results and errors. A full disk or an interruption stops what has not started; other errors concern
        one clip and the rest goes on.
    """
    results: list[ClipResult] = []
    errors: list[Exception] = []
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            try:
                results.append(run_here(task, advance))
            except OSError as error:
                errors.append(error)
                break
            except ValueError as error:
                errors.append(error)
        return results, errors
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    stopped = threading.Event()

    def listen() -> None:
        while not stopped.is_set() or not messages.empty():
            message = messages.get()
            if message is not None:
                advance(*message)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _start_worker, (messages, os.getpid()))
    try:
        futures: list[Future[ClipResult]] = [pool.submit(_run_in_worker, task) for task in tasks]
        for future in as_completed(futures):
            if future.cancelled():
                continue
            try:
                results.append(future.result())
            except BrokenProcessPool as error:
                raise RuntimeError(
                    "a worker process was killed, perhaps for want of memory; finished work is kept, run the same "
                    "command again, with fewer workers if it was memory"
                ) from error
            except OSError as error:
                errors.append(error)
                pool.shutdown(wait=False, cancel_futures=True)
            except ValueError as error:
                errors.append(error)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        stopped.set()
        messages.put(None)
        listener.join(timeout=5)
    return results, errors
