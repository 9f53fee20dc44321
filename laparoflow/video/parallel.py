"""Sharing the work: between machines by the launcher's rank, between cores by processes.

Machines need no coordinator: each takes every world-size-th unit of a list that all of them build alike. A unit is a clip,
or, when there are fewer clips than machines, the shards of a clip that leave a given remainder.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from typing import Any

from laparoflow.video.clip import ClipResult, ClipWriter, Task

TOLD_EVERY = 0.2  # seconds between two looks at what workers have done


def rank_and_world_size() -> tuple[int, int]:
    """(rank, world size) that torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS) gave, else (0, 1).

    SLURM_NTASKS is not looked at: it is also set in a batch script that runs once. A ValueError where they are at odds.
    """
    for rank_name, size_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank_name in os.environ and size_name in os.environ:
            rank, size = int(os.environ[rank_name]), int(os.environ[size_name])
            if not 0 <= rank < size:
                raise ValueError(f"{rank_name} must be in [0, {size_name}), got {rank} of {size}")
            return rank, size
    return 0, 1


def units_of(clips: int, rank: int, world_size: int) -> list[tuple[int, int, int]]:
    """This rank's share of the work as (clip, part, parts)."""
    parts = -(-world_size // clips) if clips else 1
    every = [(clip, part, parts) for clip in range(clips) for part in range(parts)]
    return every[rank::world_size]


def split_tasks(tasks: list[Task], workers: int) -> list[Task]:
    """Split tasks further when there are fewer than workers."""
    pieces = max(1, -(-workers // max(1, len(tasks))))
    return [
        replace(task, part=(task.part[0] + task.part[1] * piece, task.part[1] * pieces))
        for task in tasks
        for piece in range(pieces)
    ]


_counts: Any = None


def _begin(counts: Any) -> None:
    """A worker leaves Ctrl-C, which reaches it too, to its parent, and ends at once when that ends."""
    global _counts
    _counts = counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(number: int, task: Task) -> ClipResult:
    """Do a task in a worker, and count its frames where the parent sees it."""

    def advance(name: str, frames: int) -> None:
        if _counts[-1]:
            raise KeyboardInterrupt
        _counts[number] += frames

    try:
        return ClipWriter(task, advance).run()
    except Exception as error:  # of any kind: it is raised in the parent
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # a library's error that cannot travel
            raise RuntimeError(f"{task.plan.source}: {type(error).__name__}: {error}") from None
        raise


def run_tasks(
    tasks: list[Task], workers: int, advance: Callable[[str, int], None]
) -> tuple[list[ClipResult], list[Exception]]:
    """Results and errors of tasks, which run in worker processes, or in this one if one worker is enough.

    ``advance`` is called with a clip's name and a number of source frames as they are done. A full disk or an interruption
    stops the work; other errors concern one clip and the rest goes on. A RuntimeError where a worker process was killed.
    """
    results: list[ClipResult] = []
    errors: list[Exception] = []
    several = workers > 1 and len(tasks) > 1
    here = (ClipWriter(task, advance).run for task in tasks)
    calls: Calls = _in_workers(tasks, min(workers, len(tasks)), advance) if several else here
    with closing(calls):
        for call in calls:
            try:
                results.append(call())
            except OSError as error:
                errors.append(error)
                break
            except ValueError as error:
                errors.append(error)
            except BrokenProcessPool as error:
                raise RuntimeError(
                    "a worker process was killed, perhaps for want of memory; finished work is kept, run the same command "
                    "again, with fewer workers if it was memory"
                ) from error
    return results, errors


Calls = Generator[Callable[[], ClipResult], None, None]


def _in_workers(tasks: list[Task], workers: int, advance: Callable[[str, int], None]) -> Calls:
    """What gives the result of each task, as they end; workers stop at their next frame when this ends."""
    context = multiprocessing.get_context("spawn")
    counts = context.RawArray("q", len(tasks) + 1)  # frames that are done of each task, and at last whether to stop
    told = [0] * len(tasks)
    pool = ProcessPoolExecutor(workers, context, _begin, (counts,))
    try:
        running = {pool.submit(_work, number, task) for number, task in enumerate(tasks)}
        while running:
            ended, running = wait(running, TOLD_EVERY, FIRST_COMPLETED)
            for number, done in enumerate(counts[:-1]):
                if done > told[number]:
                    advance(tasks[number].plan.name, done - told[number])
                    told[number] = done
            for future in ended:
                yield future.result
    finally:
        counts[-1] = 1
        pool.shutdown(cancel_futures=True)
