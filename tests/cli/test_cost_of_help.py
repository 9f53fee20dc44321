"""The benchmark of the help prints what TRAIN.md says of it."""

import subprocess
import sys

from benchmarks.help import CALLS


def test_help_stays_small():
    answer = subprocess.run([sys.executable, "-m", "benchmarks.help"], capture_output=True, text=True, check=True)
    rows = [line.split() for line in answer.stdout.splitlines()[1:]]
    assert len(rows) == len(CALLS)
    assert max(float(row[-1]) for row in rows) <= 200  # MB; a command that loads torch takes over 400
