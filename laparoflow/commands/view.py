"""``laparoflow view``."""

from __future__ import annotations

from laparoflow.commands.base import RUN, Command
from laparoflow.report.settings import ViewSettings


def run(settings: ViewSettings) -> None:
    from laparoflow.report.view import view_video

    frames, seconds, rate = view_video(settings)
    plays = "" if rate is None else f"; plays {rate:g} frames a second, {settings.speed:g} x life"
    print(f"{frames} frames in {seconds:.1f} s ({frames / seconds:.1f} a second){plays}: {settings.out}")


COMMAND = Command(
    ViewSettings,
    run,
    positional="video",
    files={"video": "a video or a folder of images", "checkpoint": RUN, "probe": "a folder of `laparoflow probe`"},
)
