"""``laparoflow predict``."""

from __future__ import annotations

from pathlib import Path

from laparoflow.commands.base import Command, need
from laparoflow.report.settings import PredictSettings

WHAT = ("a run of `laparoflow pretrain`", "a folder of `laparoflow probe`", "a video, an image or a folder of them")


def check(settings: PredictSettings) -> None:
    """Refuse inputs that are not there, and a folder that holds files."""
    for number, path in enumerate(settings.inputs):
        need("inputs", Path(path), WHAT[min(number, 2)])
    out = Path(settings.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out: {out} exists and is not empty; name another folder")


def run(settings: PredictSettings) -> None:
    """Write the predictions, and print how fast it went."""
    from laparoflow.report.predict import predict

    frames, seconds, what = predict(settings)
    print(f"{what} of {frames} frames in {seconds:.1f} s ({frames / seconds:.1f} a second), and overlays: {settings.out}")


COMMAND = Command(
    PredictSettings,
    run,
    {
        "what goes in and out": ("inputs", "out", "every"),
        "the head": ("labels", "seed"),
        "the machine": ("batch_size", "device"),
    },
    positional="inputs",
    check=check,
)
