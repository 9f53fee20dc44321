"""How many processes there are, by what the launcher says: torchrun, SLURM's srun, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)


@dataclass(frozen=True)
class Launch:
    """Processes of a run: ``devices`` on each of ``nodes`` machines; ``rank`` is this one."""

    devices: int
    nodes: int
    rank: int
    launcher: Literal["torchrun", "slurm", "none"] = "none"

    @property
    def world(self) -> int:
        """All processes."""
        return self.devices * self.nodes

    def environment(self) -> ClusterEnvironment:
        """The same for Lightning, which would otherwise take a batch script without srun for a task of srun."""
        if self.launcher == "torchrun":
            return TorchElasticEnvironment()
        if self.launcher == "slurm":
            return SLURMEnvironment(auto_requeue=False)  # the run saves on SIGTERM by itself
        return LightningEnvironment()


def find_launch(devices: int, environment: Mapping[str, str] | None = None) -> Launch:
    """The launcher's numbers, or ``devices`` processes on this machine.

    SLURM counts only where srun started several tasks: its other variables are also set in a batch script and in an
    interactive shell, each of which runs a command once. A ValueError where srun put different numbers on the nodes.
    """
    env = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in env or ("LOCAL_WORLD_SIZE" in env and "WORLD_SIZE" in env):
        local = int(env["LOCAL_WORLD_SIZE"])
        return Launch(local, int(env["WORLD_SIZE"]) // local, int(env["RANK"]), "torchrun")
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1 and "SLURM_PROCID" in env:
        nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")))
        if tasks % nodes:
            raise ValueError(f"srun: expected as many tasks on each node (--ntasks-per-node), got {tasks} on {nodes} nodes")
        return Launch(tasks // nodes, nodes, int(env["SLURM_PROCID"]), "slurm")
    return Launch(devices, 1, int(env.get("LOCAL_RANK", "0")))
