"""The support table of docs/BACKENDS.md says what the backends' own predicate says."""

from __future__ import annotations

import pytest
import torch

from laparoflow_kernels.backends import native, why_not
from tests.docs.pages import ROOT, table_rows

ROWS = {row[0]: row[1:] for row in table_rows(ROOT / "docs" / "BACKENDS.md")}
COLUMNS = [("native", "cpu"), ("native", "cuda"), ("triton", "cuda"), ("reference", "cuda")]


@pytest.fixture
def hopper(monkeypatch):
    """A machine with a GPU of 9.0, as far as the predicate asks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(native, "build_facts", lambda: {"cuda": "13.0", "cuda_architectures": "8.0;9.0a"})
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_dtypes(hopper, dtype):
    cells = ROWS["float64" if dtype == "float64" else "float32, bfloat16, float16"]
    for cell, (name, device) in zip(cells, COLUMNS, strict=True):
        reason = why_not(name, torch.device(device), getattr(torch, dtype), 64)
        assert (cell == "yes") == (reason is None), f"{name} on {device}: the page says {cell}, the code {reason}"


def test_channels(hopper):
    for cell, (name, device) in zip(ROWS["channels D"], COLUMNS, strict=True):
        runs = [wide for wide in (256, 1024, 1_000_000) if why_not(name, torch.device(device), torch.float32, wide) is None]
        assert cell == ("any" if len(runs) == 3 else f"1 to {runs[-1]:,}")
        if len(runs) < 3:
            assert why_not(name, torch.device(device), torch.float32, runs[-1] + 1) is not None


def test_a_reason_names_no_backend_that_refuses_too(hopper):
    for name in ("native", "triton"):
        reason = why_not(name, torch.device("cuda"), torch.float64, 64)
        assert "reference" in reason
        assert "native" not in reason
