"""What settings share: checks, whose messages name the option, what was expected and what came, and their plain values."""

from __future__ import annotations

from dataclasses import asdict
from operator import attrgetter, ge, gt, le, lt
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

BOUNDS = {"low": ("at least", ge), "above": ("above", gt), "high": ("at most", le), "below": ("below", lt)}


def check_choices(settings: Any) -> None:
    """Refuse a value that the ``Literal`` type of its field does not list."""
    for name, hint in get_type_hints(type(settings)).items():
        if get_origin(hint) is Literal and getattr(settings, name) not in get_args(hint):
            raise ValueError(f"{name} must be one of {', '.join(get_args(hint))}, got {getattr(settings, name)!r}")


def check_numbers(settings: Any, names: str, **bounds: float) -> None:
    """Refuse fields (dotted names separated by blanks) out of ``bounds``: low, above, high, below; None is allowed."""
    for name in names.split():
        value = attrgetter(name)(settings)
        if value is not None and not all(BOUNDS[kind][1](value, bound) for kind, bound in bounds.items()):
            text = " and ".join(f"{BOUNDS[kind][0]} {bound:g}" for kind, bound in bounds.items())
            raise ValueError(f"{name} must be {text}, got {value}")


def check_range(settings: Any, names: str, zero: bool = False) -> None:
    """Refuse a (low, high) whose numbers are out of order or not above 0; with ``zero`` the low one may be 0."""
    for name in names.split():
        low, high = getattr(settings, name)
        if not (0 <= low <= high and (zero or low > 0)):
            raise ValueError(f"{name} must be a range (low, high) with 0 <{'=' * zero} low <= high, got {(low, high)}")


def plain(value: Any) -> Any:
    """Settings as plain values for YAML and JSON: dataclasses as dictionaries, paths as text, tuples as lists."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
