"""Backbone and pixel head as ONNX, checked against PyTorch with onnxruntime.

images float32 [B, 3, H, W], RGB in 0..1  ->  features [B, C, H/p, W/p], embeddings [B, D, H/s, W/s]
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from laparoflow.export.timm_weights import compare
from laparoflow.files import replacing
from laparoflow.models.encoder import PixelEncoder

TOLERANCE = 1e-4


class BothOutputs(nn.Module):
    """Features and embeddings of an encoder."""

    def __init__(self, encoder: PixelEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] RGB 0..1 -> (features, embeddings)."""
        return self.encoder.features(images), self.encoder(images)


def write_onnx(encoder: PixelEncoder, path: Path, size: tuple[int, int]) -> None:
    """Write an encoder in eval mode for pictures of one size (height, width), multiples of its stride, and any batch.

    Nothing is left behind where onnxruntime does not give what PyTorch gives.
    """
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    encoder.check_images(images)
    model = BothOutputs(encoder).eval()
    onnx = _needed("onnx")
    _needed("onnxscript")
    batch = torch.export.Dim("batch", min=1)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["features", "embeddings"]}
    with replacing(path) as partial:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (images,), str(partial), dynamic_shapes=({0: batch},), external_data=False, verbose=False, **names
            )
        onnx.checker.check_model(str(partial))
        _compare(model, partial, torch.cat([images, images.flip(-1)])[:3])


def _needed(name: str) -> ModuleType:
    """Import an optional package, or say how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise RuntimeError(f"export to ONNX needs {name}: pip install onnx onnxscript onnxruntime") from error


def _compare(model: nn.Module, path: Path, images: Tensor) -> None:
    session = _needed("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(["features", "embeddings"], {"images": images.numpy()})
    with torch.no_grad():
        wanted = model(images)
    for name, ours, theirs in zip(("features", "embeddings"), wanted, found, strict=True):
        compare("onnxruntime", name, ours, torch.from_numpy(theirs), TOLERANCE)
