"""Backbones, pixel head and projection: :class:`PixelEncoder` and how to build or load one."""

from laparoflow.models.encoder import EncoderSettings, PixelEncoder, build_encoder
from laparoflow.models.loading import load_encoder

__all__ = ["EncoderSettings", "PixelEncoder", "build_encoder", "load_encoder"]
