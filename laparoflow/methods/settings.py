"""Which method a run trains: one key, ``name``, chooses; the options of each method sit under its own key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from laparoflow.methods.base import Method
from laparoflow.methods.coordinates import CoordinateMethod, CoordinateSettings
from laparoflow.methods.densecl import DenseCLMethod, DenseCLSettings
from laparoflow.methods.flow import FlowMethod, FlowSettings
from laparoflow.methods.image import ImageMethod, ImageSettings
from laparoflow.methods.pixpro import PixProMethod, PixProSettings
from laparoflow.models.encoder import PixelEncoder


@dataclass
class MethodSettings:
    """The method and its options; those of the methods not named play no part.

    Attributes:
        name: ``flow`` (ours), ``coordinates`` (PixContrast), ``pixpro``, ``densecl``, or ``image`` (one vector a
            picture).
        flow: options of ``flow``.
        coordinates: options of ``coordinates``.
        pixpro: options of ``pixpro``.
        densecl: options of ``densecl``.
        image: options of ``image``.
    """

    name: Literal["flow", "coordinates", "pixpro", "densecl", "image"] = "flow"
    flow: FlowSettings = field(default_factory=FlowSettings)
    coordinates: CoordinateSettings = field(default_factory=CoordinateSettings)
    pixpro: PixProSettings = field(default_factory=PixProSettings)
    densecl: DenseCLSettings = field(default_factory=DenseCLSettings)
    image: ImageSettings = field(default_factory=ImageSettings)


METHODS: dict[str, Callable[[PixelEncoder, Any], Method]] = {
    "flow": FlowMethod,
    "coordinates": CoordinateMethod,
    "pixpro": PixProMethod,
    "densecl": DenseCLMethod,
    "image": ImageMethod,
}


def build_method(encoder: PixelEncoder, settings: MethodSettings) -> Method:
    """The method that ``settings.name`` names, around ``encoder``.

    Raises:
        ValueError: an unknown name, or an option out of range.
    """
    if settings.name not in METHODS:
        raise ValueError(f"method.name: expected one of {', '.join(METHODS)}, got {settings.name!r}")
    return METHODS[settings.name](encoder, getattr(settings, settings.name))
