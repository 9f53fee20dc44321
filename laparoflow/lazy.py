"""Names of a package that are imported when they are first asked for.

The command line reads settings modules alone; a package that imported its implementation would load torch for that.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str, **modules: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package; ``modules`` are module below it -> the names in it, separated by blanks."""
    places = {name: module for module, names in modules.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return find
