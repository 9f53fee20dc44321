"""Every example runs from the command line as its header says, with a few steps, and is as short as promised."""

from __future__ import annotations

import difflib
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "toy_video.py")
NEEDS = {
    "lightly": ("lightly_densecl", "lightly_densecl_original"),
    "timm": ("finetune_vit",),
    "lightning": ("lightning_module",),
}


def run_as_header_says(path: Path, steps: int, batch: int) -> str:
    """Output of the header's command with other numbers of steps and frames."""
    line = re.search(r"^Run: +(.+)$", path.read_text(), re.MULTILINE)
    assert line, f"{path.name}: no 'Run:' line"
    words = shlex.split(re.sub(r"\[.*\]", "", line[1]))
    words[words.index("--steps") + 1] = str(steps)
    launcher = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}[words[0]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*launcher, *words[1:], "--batch", str(batch)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs_as_its_header_says(path: Path) -> None:
    for package, names in NEEDS.items():
        if path.stem in names:
            pytest.importorskip(package)
    steps = 40 if path.stem == "plain_pytorch" else 2
    rows = re.findall(r"step +(\d+)  loss (\S+)(?:.*entropy (\S+))?", run_as_header_says(path, steps, batch=4))
    assert rows
    assert all(0 < float(loss) < 20 and math.isfinite(float(loss)) for _, loss, _ in rows)
    if path.stem == "plain_pytorch":
        assert float(rows[-1][2]) < 0.9 * float(rows[0][2]), rows


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_is_short_and_marks_what_changed(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 150
    if path.stem != "lightly_densecl_original":
        stated = re.search(r'the (\d+) lines marked with "# <--"', text)
        assert stated
        assert int(stated[1]) == len(re.findall(r"# <--$", text, re.MULTILINE))


def test_lightly_example_differs_in_few_lines() -> None:
    names = ("lightly_densecl_original.py", "lightly_densecl.py")
    original, ours = ((ROOT / "examples" / name).read_text() for name in names)
    changed = [x for x in difflib.ndiff(original.splitlines(), ours.splitlines()) if x[0] in "+-"]
    assert 0 < len(changed) <= 30
    assert "NTXentLoss(temperature=0.2, memory_bank_size" in ours, "the global loss stays lightly's"
    for lightly_s_own in ("from lightly.loss import NTXentLoss", "select_most_similar(query_features, key_features"):
        assert lightly_s_own in original, "the dense loss of the original is lightly's"
