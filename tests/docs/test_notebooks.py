"""The notebooks, cell by cell, on small data; and kept without outputs."""

from __future__ import annotations

import json

import matplotlib.pyplot as pyplot
import pytest

from tests.docs.pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
TINY = {
    "batch_size": 2, "encoder.backbone": "laparoflow_convvit_mini", "encoder.image_size": 32, "encoder.dim": 8,
    "encoder.hidden": 16, "views.size": [16, 16], "trainer.workers": 0, "trainer.tensorboard": False,
}  # fmt: skip
SMALL = {
    "loss": {"SIDE": 12, "STEPS": 40},
    "video": {"STEPS": 2, "CHANGES": TINY},
    "probe": {"STEPS": 2, "CHANGES": TINY, "LABELS": 2, "SEEDS": [0], "CLIPS": 3, "FRAMES": 8,
              "PROBE": {"steps": 2, "image_size": (48, 64)}},
}  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, monkeypatch):
    """All cells run, in order; the cell tagged "parameters" is followed by small values for its names."""
    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("Agg")
    names: dict = {"__name__": "__main__"}
    settings = SMALL[path.stem]
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name} cell {number}", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                assert settings.keys() <= names.keys()
                names |= settings
    pyplot.close("all")
    if path.stem == "loss":
        similarity, regions = names["similarity"], names["regions"]
        assert names["history"][-1] < names["history"][0]
        assert similarity[regions == 0].mean() > similarity[regions == 2].mean()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_no_output_and_is_listed(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len([cell for cell in code if cell["metadata"].get("tags") == ["parameters"]]) == 1
    assert f"(notebooks/{path.name})" in (ROOT / "docs" / "NOTEBOOKS.md").read_text()
