"""Loading a pretrained network from a run folder, from one of its checkpoints, or from a folder exported for the hub."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from laparoflow.models.encoder import EncoderSettings, PixelEncoder, build_encoder
from laparoflow.models.weights import check_fit, read_state

SETTINGS_KEY = "laparoflow_encoder"
STATE_PREFIX = "method.encoder."
AVERAGED_KEY = "averaged_encoder"
CONFIG_FILE, BACKBONE_FILE, HEAD_FILE = "config.json", "model.safetensors", "pixel_head.safetensors"
HUB_KEY = "laparoflow"
"""Key of timm's config.json under which the encoder's settings stand."""


def find_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run folder, or ``run`` itself where it is a file; a FileNotFoundError for neither."""
    if run.is_file():
        return run
    last = run / "checkpoints" / "last.ckpt"
    steps = sorted((run / "checkpoints").glob("step_*.ckpt")) if run.is_dir() else []
    if last.is_file():
        return steps[-1] if steps and _overtaken(last, steps[-1]) else last
    if not steps:
        raise FileNotFoundError(f"checkpoint: {run} is neither a checkpoint nor a run folder with checkpoints/last.ckpt")
    return steps[-1]


def _overtaken(last: Path, step: Path) -> bool:
    """Whether ``step_N.ckpt`` was written after ``last.ckpt``, which then did not follow, as on a disk that filled up."""
    if step.stat().st_mtime_ns <= last.stat().st_mtime_ns:
        return False
    number = step.stem.removeprefix("step_")
    return number.isdigit() and int(number) > int(read_state(last).get("global_step", 0))


def checkpoint_settings(state: dict[str, Any], path: Path) -> EncoderSettings:
    """The encoder's settings, without the file that it once started from; a ValueError for a checkpoint that is not ours."""
    values = state.get(SETTINGS_KEY)
    if not isinstance(values, dict):
        raise ValueError(f"checkpoint: {path} was not written by `laparoflow pretrain` (no {SETTINGS_KEY!r} in it)")
    known = {item.name for item in fields(EncoderSettings)}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f"checkpoint: {path} has encoder settings that this version does not know: {', '.join(unknown)}; "
            f"expected some of {', '.join(sorted(known))}"
        )
    return EncoderSettings(**(values | {"weights": None}))


def is_hub_folder(folder: Path) -> bool:
    """Whether ``laparoflow export --format hub`` wrote this folder."""
    try:
        return HUB_KEY in json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError):
        return False


def _read(run: Path, averaged: bool) -> tuple[EncoderSettings, dict[str, Any], Path]:
    """Settings and tensors of an encoder, and the file or folder that they were read from."""
    if is_hub_folder(run):
        config = json.loads((run / CONFIG_FILE).read_text(encoding="utf-8"))
        parts = {"backbone.model.": BACKBONE_FILE, "head.": HEAD_FILE}
        tensors = {prefix + name: value for prefix, file in parts.items() for name, value in read_state(run / file).items()}
        return checkpoint_settings({SETTINGS_KEY: config[HUB_KEY].get("encoder")}, run), tensors, run
    path = find_checkpoint(run)
    state = read_state(path)
    found = state.get(AVERAGED_KEY) if averaged else None
    own = {name.removeprefix(STATE_PREFIX): value for name, value in state.get("state_dict", {}).items()
           if name.startswith(STATE_PREFIX)}  # fmt: skip
    return checkpoint_settings(state, path), found or own, path


def load_encoder(run: Path | str, averaged: bool = True) -> PixelEncoder:
    """The pretrained network, in eval mode on the CPU.

    Args:
        run: a folder written by ``laparoflow pretrain`` or by ``laparoflow export --format hub``, or a checkpoint file.
        averaged: take the moving average of the weights where the run kept one.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: damaged, not one of ours, or of a network that this version builds otherwise.
    """
    settings, tensors, path = _read(Path(run), averaged)
    encoder = build_encoder(settings)
    check_fit(tensors, encoder.state_dict(), f"checkpoint: {path}")
    encoder.load_state_dict(tensors)
    return encoder.eval()


def initial_encoder(run: Path | str, seed: int = 0) -> PixelEncoder:
    """The same network as :func:`load_encoder` before any training: the random-init control."""
    return build_encoder(_read(Path(run), averaged=False)[0], seed=seed).eval()
