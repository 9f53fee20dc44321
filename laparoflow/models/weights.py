"""Reading backbone weights from a local file: timm, DINO-style and our own checkpoints.

The file may hold the state dict itself or nest it under ``state_dict``, ``model``, ``teacher`` or
``student``; the prefixes that trainers add (``module.``, ``backbone.``, ``method.encoder.backbone.model.``)
are taken off.  timm's own filter then renames foreign layouts and resamples position embeddings.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from timm.models import eva, vision_transformer
from torch import Tensor

NESTS = ("state_dict", "teacher", "student", "model")
PREFIXES = ("method.encoder.backbone.model.", "encoder.backbone.model.", "backbone.model.", "module.", "backbone.")


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint file as a dictionary, without running code from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: no such file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"weights: {path} cannot be read as a checkpoint: {error}") from error
    except Exception as error:  # safetensors raises a class of its own that derives from Exception alone
        if type(error).__name__ != "SafetensorError":
            raise
        raise ValueError(f"weights: {path} cannot be read as safetensors: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"weights: {path} holds a {type(state).__name__}, expected a state dict")
    return state


def backbone_state(state: dict[str, Any]) -> dict[str, Tensor]:
    """The backbone's part of a checkpoint, prefixes taken off; heads and other parts are left out."""
    for nest in NESTS:
        if isinstance(state.get(nest), dict):
            state = state[nest]
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for prefix in PREFIXES:
        inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if inside:
            tensors = inside
    return tensors


def load_backbone_weights(model: vision_transformer.VisionTransformer | eva.Eva, path: Path) -> None:
    """Load ``path`` into ``model``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a tensor of the model is missing in the file or has another shape, or nothing matches.
    """
    translate: Any = (eva if isinstance(model, eva.Eva) else vision_transformer).checkpoint_filter_fn
    state = translate(backbone_state(read_state(path)), model)
    own = model.state_dict()
    wrong = [
        f"{name}: file {tuple(state[name].shape)}, model {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    missing = [name for name in own if name not in state]
    if wrong or missing:
        raise ValueError(
            f"weights: {path} does not fit the backbone; shapes that differ: {wrong[:4]}, "
            f"missing: {missing[:4]} ({len(wrong)} and {len(missing)} of {len(own)} tensors)"
        )
    model.load_state_dict({name: state[name] for name in own})
