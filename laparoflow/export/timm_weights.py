"""The backbone as a safetensors file that ``timm.create_model`` loads, with the arguments that its card names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from torch import Tensor

from laparoflow.files import replacing, write_bytes
from laparoflow.models.encoder import PixelEncoder

TOLERANCE = 1e-5


def create_arguments(encoder: PixelEncoder) -> dict[str, Any]:
    """What ``timm.create_model`` needs beside the name so that the file fits."""
    settings = encoder.settings
    return {"num_classes": 0, "img_size": settings.image_size, **settings.backbone_options}


def safetensors_bytes(module: torch.nn.Module, **metadata: str) -> bytes:
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    return save(state, metadata={"format": "pt", **metadata})


def compare_with_timm(encoder: PixelEncoder, name: str, **arguments: Any) -> None:
    """Build a model with ``timm.create_model``; a RuntimeError where its tokens differ from those of the encoder."""
    plain: Any = timm.create_model(name, **arguments).eval()
    size = encoder.settings.image_size
    image = encoder.normalise(torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        compare("timm", "features", encoder.backbone.model.forward_features(image), plain.forward_features(image), TOLERANCE)


def compare(other: str, name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """A RuntimeError where another program gives another result than ours."""
    error = float((theirs - ours).abs().max() / ours.abs().max())
    if not error <= tolerance:
        raise RuntimeError(f"{other} gives other {name} by what was exported: relative error {error:.2e}")


def write_timm(encoder: PixelEncoder, path: Path) -> None:
    """Write the weights of an encoder in eval mode as ``.safetensors``; none is left where timm gives other tokens by it."""
    name = encoder.settings.backbone
    with replacing(path) as partial:
        write_bytes(partial, safetensors_bytes(encoder.backbone.model, timm_model=name))
        compare_with_timm(encoder, name, checkpoint_path=str(partial), **create_arguments(encoder))
