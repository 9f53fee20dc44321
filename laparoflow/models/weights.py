"""Reading backbone weights from a local file: timm, DINO-style, MAE, MoCo and our own checkpoints.

The file may hold the state dict itself or nest it under ``state_dict``, ``model``, ``teacher`` or ``student``. Whatever
stands before the names of a vision transformer (``module.``, ``backbone.``, ``module.base_encoder.``, ...) is taken off; a
teacher is taken before a student. timm's own filter then renames foreign layouts and resamples position embeddings. No code
of a file is run.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models import eva, vision_transformer
from torch import Tensor

NESTS = ("state_dict", "teacher", "student", "model")
ANCHOR = re.compile(r"((?:.*?\.)?)(?:patch_embed\.|blocks\.0\.|cls_token|pos_embed)")
"""What the names of a vision transformer begin with, and what stands before it."""
HARMLESS = [
    argparse.Namespace, pathlib.PosixPath, np.dtype, np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
]  # fmt: skip
"""Types beside tensors that DINO's and MAE's files hold: arguments and NumPy numbers. Making one runs no code of a file."""
logger = logging.getLogger(__name__)


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint file as a dictionary, without running code from it; a ValueError where it is none or is damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"weights: no such file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with torch.serialization.safe_globals(HARMLESS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: a text file, a damaged archive, a type that could run code
        reason = str(error).split("\n")[0].split("(1) In PyTorch")[0].strip() or type(error).__name__
        raise ValueError(f"weights: {path} cannot be read as a checkpoint of tensors: {reason}") from error
    if not isinstance(state, dict):
        raise ValueError(f"weights: {path} holds a {type(state).__name__}, expected a state dict")
    return state


def backbone_state(state: dict[str, Any]) -> dict[str, Tensor]:
    """The backbone's part of a checkpoint, prefixes taken off; heads and other parts are left out."""
    for nest in NESTS:
        if isinstance(state.get(nest), dict):
            state = state[nest]
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    prefixes = Counter(found[1] for found in map(ANCHOR.match, tensors) if found)
    if not prefixes:
        return tensors
    prefix = max(prefixes, key=lambda p: ("teacher" in p, not any(w in p for w in ("student", "momentum")), prefixes[p]))
    if prefix:
        others = ", ".join(repr(p) for p in prefixes if p != prefix)
        logger.warning("weights: taken from under %r%s", prefix, f", not from under {others}" if others else "")
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load_backbone_weights(model: vision_transformer.VisionTransformer | eva.Eva, path: Path) -> None:
    """Load ``path`` into ``model``; a ValueError where a tensor is missing or has another shape, or nothing matches."""
    translate: Any = (eva if isinstance(model, eva.Eva) else vision_transformer).checkpoint_filter_fn
    state = translate(backbone_state(read_state(path)), model)
    own = model.state_dict()
    known = {name: value for name, value in state.items() if name in own}
    if not known:
        raise ValueError(
            f"weights: {path} does not fit: it holds nothing of the backbone; expected names like "
            f"{', '.join(list(own)[:3])}, found {', '.join(list(state)[:6]) or 'no tensors'}"
        )
    check_fit(known, own, f"weights: {path}")
    model.load_state_dict(known)


def check_fit(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    """A ValueError about ``what`` where names or shapes of its tensors are not those of the network that is to take them."""
    shapes, wanted = ({name: tuple(value.shape) for name, value in part.items()} for part in (found, expected))
    differing = [name for name in {**wanted, **shapes} if shapes.get(name) != wanted.get(name)]
    problems = [f"{name}: expected {wanted.get(name, 'none')}, found {shapes.get(name, 'none')}" for name in differing]
    if problems:
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ValueError(f"{what} does not fit the network, perhaps of another version: {'; '.join(problems[:4])}{more}")
