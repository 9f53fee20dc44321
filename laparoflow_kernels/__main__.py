"""``python -m laparoflow_kernels``: which backends can run here, with versions and the facts of the build."""

from __future__ import annotations

import platform

import torch

from laparoflow_kernels import __version__, backends
from laparoflow_kernels.backends.native import build_facts


def main() -> None:
    lines = [f"laparoflow {__version__}, torch {torch.__version__}, Python {platform.python_version()}"]
    lines += [f"  {name}: {value}" for name, value in build_facts().items()]
    lines += [f"{name:<10} {device:<5} {state}" for name, states in backends().items() for device, state in states.items()]
    print("\n".join(lines))  # in one write: a reader that stops early, as head does, breaks no pipe


if __name__ == "__main__":
    main()
