"""The kernels are interpreted or compiled according to TRITON_INTERPRET at their first import, so one process tests one
of the two: without the variable the files of ``interpreted/`` run in a process of their own (test_interpreter.py)."""

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
collect_ignore = ["test_compiled.py", "test_interpreter.py", "test_interpreted_suite.py"] if INTERPRETED else ["interpreted"]

pytest.importorskip("triton", reason="the package triton is not installed")
