"""How many processes there are, by what the launcher says: torchrun, SLURM, or none."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Processes of a run: ``devices`` on each of ``nodes`` machines; ``rank`` is this one."""

    devices: int
    nodes: int
    rank: int

    @property
    def world(self) -> int:
        """All processes."""
        return self.devices * self.nodes


def find_launch(devices: int) -> Launch:
    """The launcher's numbers, or ``devices`` processes on this machine.

    Args:
        devices: the setting, used without a launcher.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env or ("LOCAL_WORLD_SIZE" in env and "WORLD_SIZE" in env):
        local = int(env["LOCAL_WORLD_SIZE"])
        return Launch(local, int(env["WORLD_SIZE"]) // local, int(env["RANK"]))
    if "SLURM_PROCID" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(env.get("SLURM_NNODES", "1"))
        return Launch(int(env.get("SLURM_NTASKS", "1")) // nodes, nodes, int(env["SLURM_PROCID"]))
    return Launch(devices, 1, int(env.get("LOCAL_RANK", "0")))
