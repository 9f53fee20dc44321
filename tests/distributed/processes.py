"""Start a few gloo processes on this machine and collect what each returns."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(function: Callable[..., Any], world: int, folder: Path, *args: Any) -> list[Any]:
    """``[function(rank, world, *args) for rank]``, each in a process of one gloo group; a failure shows its traceback."""
    context = mp.get_context("forkserver")  # one import of torch for all processes
    context.set_forkserver_preload(["laparoflow_kernels", "torch.distributed.fsdp", function.__module__])
    folder.mkdir(parents=True, exist_ok=True)
    workers = [context.Process(target=_work, args=(function, rank, world, folder, args)) for rank in range(world)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    for rank, worker in enumerate(workers):
        if worker.is_alive():
            worker.kill()
        error = folder / f"error_{rank}.txt"
        if error.exists() or worker.exitcode != 0:
            reason = error.read_text() if error.exists() else f"exit code {worker.exitcode} (None: it hung)"
            raise AssertionError(f"process {rank} of {world}: {reason}")
    return [torch.load(folder / f"result_{rank}.pt") for rank in range(world)]


def _work(function: Callable[..., Any], rank: int, world: int, folder: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
        torch.save(function(rank, world, *args), folder / f"result_{rank}.pt")
        dist.destroy_process_group()
    except BaseException:
        (folder / f"error_{rank}.txt").write_text(traceback.format_exc())
        raise
