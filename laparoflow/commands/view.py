"""``laparoflow view``."""

from __future__ import annotations

from laparoflow.commands.base import RUN, Command
from laparoflow.report.settings import ViewSettings


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
    files={"video": "a video or a folder of images", "checkpoint": RUN, "probe": "a folder of `laparoflow probe`"},
)
