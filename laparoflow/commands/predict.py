"""``laparoflow predict``."""

from __future__ import annotations

from pathlib import Path

from laparoflow.commands.base import Command, refuse_full
from laparoflow.report.settings import PredictSettings


def run(settings: PredictSettings) -> None:
    from laparoflow.report.predict import predict

    frames, seconds, what = predict(settings)
    print(f"{what} of {frames} frames in {seconds:.1f} s ({frames / seconds:.1f} a second), and overlays: {settings.out}")


COMMAND = Command(
    PredictSettings,
    run,
    positional="inputs",
    files={"inputs": "a run, a folder of `laparoflow probe`, then videos, images or folders of them"},
    refuse=lambda settings: refuse_full(Path(settings.out)),
)
