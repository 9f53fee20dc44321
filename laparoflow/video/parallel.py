"""Sharing the work: between machines by the launcher's rank, between cores by processes.

Machines need no coordinator: each takes every world-size-th unit of a list that all of them build alike. A
unit is a clip, or, when there are fewer clips than machines, the shards of a clip that leave a given
remainder.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue

from laparoflow.video.clip import ClipResult, ClipWriter, Task

REPORT_EVERY = 8  # frames between two messages of a worker


def rank_and_world_size(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """(rank, world size) that torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS) gave, else (0, 1).

    SLURM_NTASKS is not looked at: it is also set in a batch script that runs once. A ValueError where they are at odds.
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


def split_tasks(tasks: list[Task], workers: int) -> list[Task]:
    """Split tasks further when there are fewer than workers."""
    pieces = max(1, -(-workers // max(1, len(tasks))))
    return [
        replace(task, part=(task.part[0] + task.part[1] * piece, task.part[1] * pieces))
        for task in tasks
        for piece in range(pieces)
    ]


def _work(parent: Connection) -> None:
    """A worker process: tasks come in and answers go out until None comes; it ends at once when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent decides
    tasks: SimpleQueue[Task | None] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                tasks.put(parent.recv())
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    while (task := tasks.get()) is not None:
        parent.send(_answer(task, parent))


def _answer(task: Task, parent: Connection) -> ClipResult | Exception:
    """Run a task; what went wrong is an answer too."""
    done = 0

    def advance(name: str, frames: int) -> None:
        nonlocal done
        done += frames
        if done % REPORT_EVERY == 0:
            parent.send((name, REPORT_EVERY))

    try:
        return ClipWriter(task, advance).run()
    except Exception as error:  # of any kind: it is raised in the parent
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # a library's error that cannot travel
            return RuntimeError(f"{task.plan.source}: {type(error).__name__}: {error}")
        return error


def run_tasks(
    tasks: list[Task], workers: int, advance: Callable[[str, int], None]
) -> tuple[list[ClipResult], list[Exception]]:
    """Results and errors of tasks, which run in worker processes, or in this one if one worker is enough.

    ``advance`` is called with a clip's name and a number of source frames as they are done. A full disk or an interruption
    stops what has not started; other errors concern one clip and the rest goes on.

    Raises:
        RuntimeError: if a worker process was killed; the others are ended.
    """
    if workers > 1 and len(tasks) > 1:
        return _run_in_workers(tasks, min(workers, len(tasks)), advance)
    results: list[ClipResult] = []
    errors: list[Exception] = []
    for task in tasks:
        try:
            results.append(ClipWriter(task, advance).run())
        except (OSError, ValueError) as error:
            errors.append(error)
            if isinstance(error, OSError):
                break
    return results, errors


def _run_in_workers(
    tasks: list[Task], workers: int, advance: Callable[[str, int], None]
) -> tuple[list[ClipResult], list[Exception]]:
    """One pipe for each worker: nothing is shared that a killed process could leave locked."""
    results: list[ClipResult] = []
    errors: list[Exception] = []
    waiting = deque(tasks)
    context = multiprocessing.get_context("spawn")
    busy: dict[Connection, SpawnProcess] = {}
    try:
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there,), daemon=True)
            process.start()
            there.close()  # so that the pipe ends with the process
            busy[here] = process
            here.send(waiting.popleft())
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                answer = ready.recv()
                if isinstance(answer, tuple):
                    advance(*answer)
                    continue
                if isinstance(answer, ClipResult):
                    results.append(answer)
                elif isinstance(answer, (OSError, ValueError)):
                    errors.append(answer)
                else:
                    raise answer
                if isinstance(answer, OSError):
                    waiting.clear()
                if waiting:
                    ready.send(waiting.popleft())
                else:
                    ready.send(None)
                    busy.pop(ready).join()
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(
            "a worker process was killed, perhaps for want of memory; finished work is kept, run the same command "
            "again, with fewer workers if it was memory"
        ) from error
    finally:
        for process in busy.values():
            process.terminate()
            process.join()
    return results, errors
