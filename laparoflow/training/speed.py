"""``laparoflow speed``: how fast a cache is read, views are made and steps are taken, each alone on this machine.

Frames are read while the device makes views and steps, so data keep up when

    read >= 1 / (1 / views + 1 / step)      in frames per second
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device

from laparoflow.methods.base import NearView, PixelView
from laparoflow.training.clock import RateMeter
from laparoflow.training.frames import CachedFrames, StepSampler, frame_loader, shared_memory_named
from laparoflow.training.module import PretrainModule
from laparoflow.training.pairs import near_view, two_views
from laparoflow.training.settings import SpeedSettings
from laparoflow.video.cache import FrameCache

WARM_UP = 2  # batches before the clock runs


def measure_speed(settings: SpeedSettings) -> dict[str, Any]:
    """Time reading, views and steps.

    Returns:
        Frames per second as ``read``, ``views``, ``step`` (forward and backward without views) and ``views_and_step``;
        ``wait_share``, the share of a step's time that would be spent waiting for data; and what was measured.
    """
    device = torch.device("cuda" if settings.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    module = PretrainModule(settings).to(device)
    frames = CachedFrames(FrameCache.open(Path(settings.data)), module.method.neighbours)
    with shared_memory_named(settings.trainer.workers):
        steps = StepSampler(len(frames), settings.batch_size, 0, settings.batches + WARM_UP, settings.seed)
        batches = iter(frame_loader(frames, steps, settings.trainer.workers))
        batch = [next(batches) for _ in range(WARM_UP)][-1]
        begun = time.perf_counter()
        for _ in range(settings.batches):
            next(batches)
    read = settings.batches * settings.batch_size / (time.perf_counter() - begun)

    on_device = move_data_to_device(batch, device)
    stride, seed = module.method.encoder.embed_stride, (settings.seed, 0)

    def draw() -> tuple[PixelView, PixelView, NearView | None]:
        first, second = two_views(on_device, module.views, stride, seed, module.method.shuffle_flow)
        return first, second, near_view(on_device, first, module.views, stride, seed)

    drawn = draw()
    views = _rate(settings, device, draw)
    precision = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(settings.trainer.precision)

    def step() -> None:
        with torch.autocast(device.type, precision, enabled=precision is not None):
            loss = module.method(*drawn).loss
        loss.backward()
        module.zero_grad(set_to_none=True)

    stepped = _rate(settings, device, step)
    both = 1 / (1 / views + 1 / stepped)
    return {
        "read": read,
        "views": views,
        "step": stepped,
        "views_and_step": both,
        "wait_share": max(0.0, 1 - read / both),
        "batch_size": settings.batch_size,
        "batches": settings.batches,
        "workers": settings.trainer.workers,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def _rate(settings: SpeedSettings, device: torch.device, work: Callable[[], Any]) -> float:
    """Frames per second of ``work``, which handles one batch."""
    for _ in range(WARM_UP):
        work()
    meter = RateMeter()
    for _ in range(settings.batches):
        with meter.measure(settings.batch_size, device):
            work()
    return meter.read()
