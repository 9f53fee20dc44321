"""``laparoflow view``."""

from __future__ import annotations

from pathlib import Path

from laparoflow.commands.base import Command, need
from laparoflow.report.settings import ViewSettings


def check(settings: ViewSettings) -> None:
    """Refuse a video, a run or a probe that is not there."""
    need("video", Path(settings.video), "a video or a folder of images")
    need("checkpoint", Path(settings.checkpoint), "a run of `laparoflow pretrain` or one of its checkpoints")
    if settings.probe is not None:
        need("probe", Path(settings.probe), "a folder of `laparoflow probe`")


def run(settings: ViewSettings) -> None:
    """Write the video or page, and print how fast it went."""
    from laparoflow.report.view import view_video

    done = view_video(settings)
    plays = "" if done.frame_rate is None else f"; plays {done.frame_rate:g} frames a second, {settings.speed:g} x life"
    print(f"{done.frames} frames in {done.seconds:.1f} s ({done.frames / done.seconds:.1f} a second){plays}: {settings.out}")


COMMAND = Command(
    ViewSettings,
    run,
    {
        "what goes in and out": ("video", "checkpoint", "probe", "out", "overwrite"),
        "what is shown": ("pixel", "frame_rate", "speed", "frames", "width"),
        "the machine": ("batch_size", "device"),
    },
    positional="video",
    check=check,
)
