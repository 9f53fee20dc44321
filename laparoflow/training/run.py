"""``laparoflow pretrain``: from a cache and settings to a run folder.

    RUN/config.yaml                    every setting; where it resumed, those that it goes on with
    RUN/checkpoints/last.ckpt          and the newest step_*.ckpt
    RUN/logs/csv/from_step_N/metrics.csv, RUN/logs/tensorboard/
    RUN/run.json                       what came out: steps, last loss, speed, hash of the data, versions
    RUN/fit-profile.txt                Lightning's table of where the time went, with ``trainer.profiler``
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
import time
import warnings
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler

import laparoflow
from laparoflow.bounds import plain
from laparoflow.files import write_json, write_text
from laparoflow.machine import threads_of, told
from laparoflow.models.loading import find_checkpoint
from laparoflow.models.weights import read_state
from laparoflow.training.callbacks import AtomicCheckpoints, AveragedEncoder, SaveOnSignal, StepProgress
from laparoflow.training.frames import CachedFrames, StepSampler, frame_loader, groups_of, shared_memory_named
from laparoflow.training.launch import Launch, find_launch
from laparoflow.training.module import PretrainModule
from laparoflow.training.places import DATA_FILE, data_places
from laparoflow.training.resume import check_same_run
from laparoflow.training.settings import PretrainSettings, TrainerSettings, check_batch
from laparoflow.video.cache import FrameCache


class Interrupted(SystemExit):
    """The run was told to stop and has saved; exits with 128 + signal."""


def pretrain(settings: PretrainSettings) -> dict[str, Any]:
    """Train, and return what ``run.json`` holds.

    Raises:
        FileExistsError: ``out`` holds files and ``resume`` is not set.
        FileNotFoundError: no cache, or nothing to resume from.
        ValueError: a setting out of range, or with ``resume`` another one than the run was begun with.
        NonFiniteLossError: the loss became NaN or infinite; the batch is saved.
        Interrupted: SIGTERM or Ctrl-C came; the run is saved and can be resumed.
    """
    check_machine(settings.trainer)
    launch = find_launch(settings.trainer.devices)
    check_batch(settings, launch.world)
    out = Path(settings.out)
    if not Path(settings.data).is_dir():
        raise FileNotFoundError(f"data: no cache at {settings.data}; write one with `laparoflow prepare`")
    start = _check_folder(settings, launch.rank)
    cache = FrameCache.open(Path(settings.data), settings.trainer.verify, (launch.rank, launch.world))
    module = PretrainModule(settings, cache.content_hash)
    frames = CachedFrames(cache, module.method.neighbours)
    if launch.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / DATA_FILE, data_places(out, Path(settings.data)))
        write_text(out / "config.yaml", yaml.safe_dump(plain(replace(settings, resume=False)), sort_keys=False))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    stopper = SaveOnSignal(out / "checkpoints")
    trainer = build_trainer(settings, launch, start, [stopper])
    first, last = (step * settings.trainer.accumulate for step in (start, max(settings.max_steps, start)))
    share = launch.rank, launch.world, groups_of(cache, settings.balance)
    steps = StepSampler(len(frames), settings.batch_size, first, last, settings.seed, *share)
    loader = frame_loader(frames, steps, settings.trainer.workers, isinstance(trainer.accelerator, CUDAAccelerator))
    if isinstance(trainer.accelerator, CPUAccelerator):
        torch.set_num_threads(threads_of(launch.devices, torch.get_num_threads()))
    if launch.rank == 0 and settings.trainer.progress:
        print(told(launch.devices, torch.get_num_threads(), settings.trainer.workers), file=sys.stderr)
    begun = time.perf_counter()
    with warnings.catch_warnings(), shared_memory_named(settings.trainer.workers), closing(stopper):
        # the sampler starts at the step of the checkpoint by itself, so Lightning's doubt about resuming does not apply
        for message in (
            "your dataloader is not resumable", "does not have many workers", "smaller than the logging interval",
            "LeafSpec", "Checkpoint directory .* exists and is not empty",
        ):  # fmt: skip
            warnings.filterwarnings("ignore", message=f".*{message}.*")
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category)
        resume = str(find_checkpoint(out)) if settings.resume else None
        trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    if stopper.stopped is not None:
        if launch.rank == 0:
            command = shlex.join(["--data", str(settings.data), "--out", str(out), "--resume", "true"])
            print(f"stopped by signal {stopper.stopped}; saved. Go on: laparoflow pretrain {command}", file=sys.stderr)
        raise Interrupted(128 + stopper.stopped)
    trainer.save_checkpoint(out / "checkpoints" / "last.ckpt")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    summary = {
        "kind": "pretrain",
        "method": settings.method.name,
        "steps": trainer.global_step,
        "loss": metrics.get("loss"),  # None where a finished run was resumed and nothing was left to do
        "metrics": metrics,
        "seconds": time.perf_counter() - begun,
        "frames": len(cache),
        "data_hash": cache.content_hash,
        "parameters": sum(p.numel() for p in module.method.encoder.parameters()),
        "processes": launch.world,
        "commit": source_commit(),
        "versions": {"laparoflow": laparoflow.__version__, "torch": torch.__version__},
    }
    if launch.rank == 0:
        write_text(out / "run.json", json.dumps(summary, indent=1) + "\n")
    return summary


def check_machine(options: TrainerSettings) -> None:
    """Refuse what this machine cannot do before anything is written; a ValueError names the setting."""
    if options.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator: expected a CUDA device for 'gpu', found none; choose 'cpu' or 'auto'")
    if options.precision == "16-mixed" and (options.accelerator == "cpu" or not torch.cuda.is_available()):
        raise ValueError(
            "trainer.precision: '16-mixed' needs a CUDA device, and training would run on the CPU; "
            "choose 'bf16-mixed' or '32-true'"
        )
    if options.wandb is not None and find_spec("wandb") is None:
        raise ValueError(f"trainer.wandb: got {options.wandb!r}, but wandb is not installed; pip install wandb")


def build_trainer(settings: PretrainSettings, launch: Launch, start: int, extra: list[Callback]) -> pl.Trainer:
    """The Lightning trainer of a run, with further callbacks; the step that it starts at names the folder of the CSV."""
    options, out = settings.trainer, Path(settings.out)
    loggers: list[Logger] = [CSVLogger(out, name="logs/csv", version=f"from_step_{start}", flush_logs_every_n_steps=10)]
    if options.tensorboard:
        loggers.append(TensorBoardLogger(out, name="logs", version="tensorboard"))
    if options.wandb is not None:
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(WandbLogger(project=options.wandb, save_dir=out))
    callbacks: list[Callback] = [  # Lightning runs checkpoint callbacks last, so they save what the others did
        ModelCheckpoint(
            out / "checkpoints", "step_{step:07d}", auto_insert_metric_name=False, monitor="step", mode="max",
            save_top_k=options.keep, save_last=True, every_n_train_steps=options.checkpoint_every,
            enable_version_counter=False,
        ),  # step_0000500.ckpt and its like, and last.ckpt
        LearningRateMonitor("step"),
        *extra,
    ]
    if options.average is not None:
        callbacks.insert(0, AveragedEncoder(options.average))  # before `extra`, which may save
    if settings.online.every:
        from laparoflow.training.online import OnlineProbe

        callbacks.insert(0, OnlineProbe(settings.online, out))
    if options.progress:
        callbacks.append(StepProgress())
    profilers = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}
    return pl.Trainer(
        default_root_dir=out,
        accelerator=options.accelerator,
        devices=launch.devices,
        num_nodes=launch.nodes,
        strategy="ddp" if launch.world > 1 else "auto",
        precision=options.precision,
        max_steps=settings.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=settings.optimiser.clip or None,
        log_every_n_steps=options.log_every,
        deterministic=options.deterministic or None,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        logger=loggers,
        profiler=None if options.profiler is None else profilers[options.profiler](out, "profile"),
        callbacks=callbacks,
        plugins=[AtomicCheckpoints(), launch.environment()],
    )


def _check_folder(settings: PretrainSettings, rank: int) -> int:
    """Step to start from; refuse to write over a run, or to go on with another than the one that is there."""
    out = Path(settings.out)
    if settings.resume:
        checkpoint = read_state(find_checkpoint(out))
        check_same_run(checkpoint, settings, FrameCache.open(Path(settings.data), "sizes").content_hash)
        return int(checkpoint["global_step"])
    if rank == 0 and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"out: {out} exists and is not empty; name another folder, or set resume to go on from its last checkpoint"
        )
    return 0


def source_commit() -> str | None:
    """Commit of the checkout that this package runs from, "-dirty" behind it after changes; None for an installed one."""
    package = Path(laparoflow.__file__).parent
    if not (package.parent / ".git").exists():
        return None
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        answer = subprocess.run(command, cwd=package, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
