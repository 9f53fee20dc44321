"""Checks that settings share; a message names the option, what was expected and what came."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_choices(settings: Any) -> None:
    """Refuse a value that the ``Literal`` type of its field does not list."""
    for name, hint in get_type_hints(type(settings)).items():
        if get_origin(hint) is Literal and getattr(settings, name) not in get_args(hint):
            raise ValueError(f"{name} must be one of {', '.join(get_args(hint))}, got {getattr(settings, name)!r}")


def check_numbers(
    settings: Any, names: str, low: float | None = None, high: float | None = None, above: float | None = None
) -> None:
    """Refuse fields (names separated by blanks) below ``low``, over ``high``, or not above ``above``; None is allowed."""
    for name in names.split():
        value = getattr(settings, name)
        kept = value is None or (
            (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
        )
        if not kept:
            bounds = {"at least": low, "above": above, "at most": high}
            text = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
            raise ValueError(f"{name} must be {text}, got {value}")


def check_range(settings: Any, names: str, zero: bool = False) -> None:
    """Refuse a (low, high) whose numbers are out of order or not above 0; with ``zero`` the low one may be 0."""
    for name in names.split():
        low, high = getattr(settings, name)
        if not (0 <= low <= high and (zero or low > 0)):
            raise ValueError(f"{name} must be a range (low, high) with 0 <{'=' * zero} low <= high, got {(low, high)}")
