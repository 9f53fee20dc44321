"""Types of options: which take several words, and how the help and the messages name them."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin


def is_list(hint: Any) -> bool:
    """Whether an option of this type takes several words."""
    return get_origin(hint) in (list, tuple) or any(is_list(one) for one in members(hint))


def members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; none of another type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()


def type_text(hint: Any) -> str:
    """A type as the help and the messages name it."""
    names = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false", type(None): "null", Any: "VALUE"}
    if hint in names:
        return names[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "|".join(map(str, inner))
    if origin is tuple and inner[-1] is not ...:
        return " ".join(map(type_text, inner))
    if origin in (list, tuple):
        one = type_text(inner[0])
        return f"{one} ..." if " " not in one else f"({one}) ..."
    return "|".join(map(type_text, inner)) if members(hint) else "KEY: VALUE"
