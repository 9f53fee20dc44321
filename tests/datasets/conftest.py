"""Fixtures of the data set tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real samples; skips where there is none."""
    fallback = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("LAPAROFLOW_SHARED_DATA", fallback))
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}; set LAPAROFLOW_SHARED_DATA")
    return folder
