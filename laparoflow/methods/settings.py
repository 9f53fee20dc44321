"""Which method a run trains: one key, ``name``, chooses; the options of each method sit under its own key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from laparoflow.methods.base import Method
from laparoflow.methods.coordinates import CoordinateMethod, CoordinateSettings
from laparoflow.methods.flow import FlowMethod, FlowSettings
from laparoflow.models.encoder import PixelEncoder


@dataclass
class MethodSettings:
    """The method and its options.

    Attributes:
        name: ``flow`` (ours), or ``coordinates`` (PixContrast).
        flow: options of ``flow``.
        coordinates: options of ``coordinates``.
    """

    name: Literal["flow", "coordinates"] = "flow"
    flow: FlowSettings = field(default_factory=FlowSettings)
    coordinates: CoordinateSettings = field(default_factory=CoordinateSettings)


def build_method(encoder: PixelEncoder, settings: MethodSettings) -> Method:
    """The method that ``settings.name`` names, around ``encoder``.

    Raises:
        ValueError: an unknown name, or an option out of range.
    """
    if settings.name == "flow":
        return FlowMethod(encoder, settings.flow)
    if settings.name == "coordinates":
        return CoordinateMethod(encoder, settings.coordinates)
    raise ValueError(f"method.name: expected one of {MethodSettings.__annotations__['name']}, got {settings.name!r}")
