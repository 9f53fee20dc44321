"""What it costs to ask for help: CPU seconds and largest memory of `laparoflow --help` and of each command's.

    python -m benchmarks.help

Each call runs in a process of its own; the first, which compiles the modules, is not counted.
"""

from __future__ import annotations

import os
import subprocess
import sys

from laparoflow.commands import COMMANDS

CALLS = [["--help"], *([name, "--help"] for name in COMMANDS), ["pretrain", "--data", "nowhere", "--out", "run"]]


def cost(words: list[str]) -> tuple[float, float]:
    """CPU seconds and largest resident memory in MB of one call."""
    process = subprocess.Popen(
        [sys.executable, "-m", "laparoflow", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, used = os.wait4(process.pid, 0)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Print a table."""
    cost(CALLS[1])
    print(f"{'laparoflow':<40}{'CPU seconds':>12}{'MB':>8}")
    for words in CALLS:
        seconds, memory = cost(words)
        print(f"{' '.join(words):<40}{seconds:>12.2f}{memory:>8.0f}")


if __name__ == "__main__":
    main()
