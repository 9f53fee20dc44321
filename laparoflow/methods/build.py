"""From the name of a method to the method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from laparoflow.methods.base import Method
from laparoflow.methods.coordinates import CoordinateMethod
from laparoflow.methods.densecl import DenseCLMethod
from laparoflow.methods.flow import FlowMethod
from laparoflow.methods.image import ImageMethod
from laparoflow.methods.pixpro import PixProMethod
from laparoflow.methods.settings import MethodSettings
from laparoflow.models.encoder import PixelEncoder

METHODS: dict[str, Callable[[PixelEncoder, Any], Method]] = {
    "flow": FlowMethod,
    "coordinates": CoordinateMethod,
    "pixpro": PixProMethod,
    "densecl": DenseCLMethod,
    "image": ImageMethod,
}


def build_method(encoder: PixelEncoder, settings: MethodSettings) -> Method:
    """The method that ``settings.name`` names, around ``encoder``."""
    if settings.name not in METHODS:
        raise ValueError(f"method.name: expected one of {', '.join(METHODS)}, got {settings.name!r}")
    return METHODS[settings.name](encoder, getattr(settings, settings.name))
