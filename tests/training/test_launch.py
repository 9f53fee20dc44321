"""Which processes make up a run, by the variables of each launcher."""

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

from laparoflow.training.launch import Launch, find_launch

SRUN = {
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8",
    "SLURM_NNODES": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NAME": "bash",
}  # fmt: skip
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NAME": "train"}
TORCHRUN = {"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8", "RANK": "6", "TORCHELASTIC_RUN_ID": "x"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Launch(3, 1, 0)),
        ({"LOCAL_RANK": "1"}, Launch(3, 1, 1)),
        (TORCHRUN, Launch(4, 2, 6, "torchrun")),
        (SRUN, Launch(4, 2, 5, "slurm")),
        (BATCH_SCRIPT, Launch(3, 1, 0)),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Launch(3, 1, 0)),
        (SRUN | TORCHRUN, Launch(4, 2, 6, "torchrun")),
    ],
)
def test_launchers(variables, expected):
    assert find_launch(3, variables) == expected


def test_uneven_tasks_are_refused():
    with pytest.raises(ValueError, match="3 on 2 nodes"):
        find_launch(1, SRUN | {"SLURM_STEP_NUM_TASKS": "3"})


def test_lightning_gets_the_same_numbers(monkeypatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    launch = find_launch(1)
    slurm = launch.environment()
    assert isinstance(slurm, SLURMEnvironment)
    assert not slurm.auto_requeue
    assert (slurm.world_size(), slurm.global_rank(), slurm.local_rank()) == (launch.world, launch.rank, 1)
    assert isinstance(Launch(1, 1, 0, "torchrun").environment(), TorchElasticEnvironment)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert isinstance(find_launch(1).environment(), LightningEnvironment)
