"""The support table of docs/BACKENDS.md says what the backends' own predicate says, and its times are measured ones."""

from __future__ import annotations

import json

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
        wide = why_not(name, torch.device(device), torch.float32, 257) is None
        assert cell == ("any" if wide else "1 to 256")
        assert why_not(name, torch.device(device), torch.float32, 256) is None


def test_a_reason_names_no_backend_that_refuses_too(hopper):
    for name in ("native", "triton"):
        reason = why_not(name, torch.device("cuda"), torch.float64, 64)
        assert "reference" in reason
        assert "native" not in reason


def test_times_are_those_of_the_results_file():
    stages = json.loads((ROOT / "benchmarks" / "results" / "gpu_check.json").read_text())["stages"]
    measured = {
        (row["backend"], row["D"], row["part"], f"{row['seconds'] * 1e3:.2f}", f"{row['extra_bytes'] / 2**20:,.0f}")
        for record in stages.values()
        for row in record.get("rows", [])
        if row.get("part") in ("forward", "backward") and row["N"] == 100_000 and not row["deterministic"]
    }
    text = (ROOT / "docs" / "BACKENDS.md").read_text()
    shown = [line.split("|")[1:-1] for line in text.split("gpu:begin")[1].split("gpu:end")[0].splitlines() if "` |" in line]
    assert len(shown) == 6
    for backend, dim, forward, backward, memory in ([cell.strip() for cell in row] for row in shown):
        name, found = backend.strip("`"), {row[:4] for row in measured}
        assert (name, int(dim), "backward", backward) in found
        assert (name, int(dim), "forward", forward, memory) in measured
