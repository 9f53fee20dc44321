"""Help, and the refusal of a wrong path, come before torch is loaded, as TRAIN.md says."""

import subprocess
import sys

import pytest

from laparoflow.commands import COMMANDS

CALLS = [["--help"], *([name, "--help"] for name in COMMANDS), ["pretrain", "--data", "nowhere", "--out", "run"]]
# largest memory of a command, measured from a small process: what a process holds when it starts another counts for both
MEASURE = """
import os, subprocess, sys
command = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(os.wait4(command.pid, 0)[2].ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
"""


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_help_stays_small(words):
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "laparoflow", *words]
    megabytes = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert megabytes <= 200  # a command that loads torch takes over 400
