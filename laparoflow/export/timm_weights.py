"""The backbone as a safetensors file that ``timm.create_model`` loads, with the arguments that its card names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save

from laparoflow.models.encoder import PixelEncoder

TOLERANCE = 1e-5


def create_arguments(encoder: PixelEncoder) -> dict[str, Any]:
    """What ``timm.create_model`` needs beside the name so that the file fits."""
    settings = encoder.settings
    return {"num_classes": 0, "img_size": settings.image_size, **settings.backbone_options}


def write_timm(encoder: PixelEncoder, path: Path) -> None:
    """Write the backbone's weights, load them back through timm, and compare the tokens.

    Args:
        encoder: in eval mode.
        path: the file; its suffix must be ``.safetensors``.

    Raises:
        ValueError: another suffix.
        RuntimeError: plain timm does not give the same tokens; the file is removed.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"out: expected a name ending in .safetensors, got {path}")
    model = encoder.backbone.model
    partial = path.with_name(f".{path.stem}.partial.safetensors")
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    # not save_file, which makes files that only their owner can read
    partial.write_bytes(save(state, metadata={"format": "pt", "timm_model": encoder.settings.backbone}))
    try:
        plain: Any = timm.create_model(
            encoder.settings.backbone, checkpoint_path=str(partial), **create_arguments(encoder)
        ).eval()
        size = encoder.settings.image_size
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            ours = model.forward_features(encoder.normalise(image))
            error = float((plain.forward_features(encoder.normalise(image)) - ours).abs().max() / ours.abs().max())
        if not error <= TOLERANCE:
            raise RuntimeError(f"the exported weights give other features in timm: relative error {error:.2e}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
