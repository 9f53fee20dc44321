"""``laparoflow speed``."""

from __future__ import annotations

from laparoflow.commands.base import Command
from laparoflow.commands.pretrain import FOLDERS, RECIPE, refuse
from laparoflow.training.settings import SpeedSettings


def run(settings: SpeedSettings) -> None:
    from laparoflow.files import write_json
    from laparoflow.training.speed import measure_speed

    speed = measure_speed(settings)
    print(f"{'frames per second':<24}on {speed['device']}, batches of {speed['batch_size']}, {speed['workers']} workers")
    for name, label in (("read", "reading"), ("views", "views"), ("step", "forward and backward")):
        print(f"{label:<24}{speed[name]:.1f}")
    print(f"{'waiting for data':<24}{speed['wait_share']:.0%} of a step")
    if settings.out is not None:
        write_json(settings.out, speed)


COMMAND = Command(
    SpeedSettings,
    run,
    {"what goes in and out": ("data", "out"), "length": ("batches", "batch_size", "seed"), **RECIPE},
    folders=FOLDERS,
    refuse=refuse,
)
