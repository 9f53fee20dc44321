"""Loading a pretrained network from a run folder or from one of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from laparoflow.models.encoder import EncoderSettings, PixelEncoder, build_encoder
from laparoflow.models.weights import read_state

SETTINGS_KEY = "laparoflow_encoder"
STATE_PREFIX = "method.encoder."
AVERAGED_KEY = "averaged_encoder"


def find_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run folder, or ``run`` itself where it is a file.

    Raises:
        FileNotFoundError: nothing there.
    """
    if run.is_file():
        return run
    last = run / "checkpoints" / "last.ckpt"
    if last.is_file():
        return last
    steps = sorted((run / "checkpoints").glob("step_*.ckpt")) if run.is_dir() else []
    if not steps:
        raise FileNotFoundError(
            f"checkpoint: {run} is neither a checkpoint nor a run folder with checkpoints/last.ckpt"
        )
    return steps[-1]


def checkpoint_settings(state: dict[str, Any], path: Path) -> EncoderSettings:
    """The encoder's settings as the checkpoint holds them, without the file that it once started from.

    Raises:
        ValueError: not a checkpoint of ours.
    """
    values = state.get(SETTINGS_KEY)
    if not isinstance(values, dict):
        raise ValueError(f"checkpoint: {path} was not written by `laparoflow pretrain` (no {SETTINGS_KEY!r} in it)")
    return EncoderSettings(**(values | {"weights": None}))


def load_encoder(run: Path | str, averaged: bool = True) -> PixelEncoder:
    """The pretrained network, in eval mode on the CPU.

    Args:
        run: a folder written by ``laparoflow pretrain``, or a checkpoint file of one.
        averaged: take the moving average of the weights where the run kept one.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: damaged, or not one of ours.
    """
    path = find_checkpoint(Path(run))
    state = read_state(path)
    encoder = build_encoder(checkpoint_settings(state, path))
    tensors = state.get(AVERAGED_KEY) if averaged else None
    if not tensors:
        tensors = {
            name.removeprefix(STATE_PREFIX): value
            for name, value in state["state_dict"].items()
            if name.startswith(STATE_PREFIX)
        }
    encoder.load_state_dict(tensors)
    return encoder.eval()


def initial_encoder(run: Path | str, seed: int = 0) -> PixelEncoder:
    """The same network as :func:`load_encoder` before any training: the random-init control."""
    path = find_checkpoint(Path(run))
    return build_encoder(checkpoint_settings(read_state(path), path), seed=seed).eval()
