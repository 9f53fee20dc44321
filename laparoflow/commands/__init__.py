"""The commands: name -> one line; the module of that name holds a ``COMMAND``, and is imported when it is called."""

from __future__ import annotations

from importlib import import_module

from laparoflow.commands.base import Command

COMMANDS = {
    "demo": "the whole job on a generated video, in minutes",
    "prepare": "videos to a cache of frames and flow",
    "convert": "a cache of version 0.1 to the present format",
    "pretrain": "train a network on a cache",
    "probe": "score frozen features with few labels",
    "view": "what a network sees in a video of yours, as a video or a page",
    "predict": "masks or key points of videos and images, by a probe's head",
    "export": "write a trained network for timm or ONNX",
    "evidence": "ours against every control under one budget",
    "report": "one HTML page over runs",
}


def find_command(name: str) -> Command:
    return import_module(f"laparoflow.commands.{name}").COMMAND
