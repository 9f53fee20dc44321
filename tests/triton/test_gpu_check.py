"""``make gpu-check`` without a GPU: its exit status, and the results file it keeps while stages pass, fail and run over."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    run = subprocess.run([sys.executable, SCRIPT, "--out", out], capture_output=True, text=True, check=False)
    assert run.returncode == 3
    assert "sees no GPU" in run.stderr or "without CUDA" in run.stderr
    assert not out.exists()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_results_hold_rows_skips_failures_and_timeouts(gpu_check, tmp_path: Path) -> None:
    out = tmp_path / "folder" / "results.json"
    selected = [
        gpu_check.Stage("rows", python("print('{\"seconds\": 1.5}'); print('text')"), 20),
        gpu_check.Stage("missing", ["none"], 20, skip="not installed"),
        gpu_check.Stage("broken", python("raise SystemExit(7)"), 20),
        gpu_check.Stage("slow", python("print('{\"first\": 1}', flush=True); import time; time.sleep(60)"), 3),
    ]
    assert gpu_check.run_stages(selected, out, 60, {"device": "none"}) == 1
    results = json.loads(out.read_text())
    assert results["about"] == {"device": "none"}
    stages = results["stages"]
    assert stages["rows"]["status"] == "passed" and stages["rows"]["rows"] == [{"seconds": 1.5}]
    assert stages["rows"]["log"] == ["text"]
    assert stages["missing"]["status"] == "skipped" and stages["missing"]["reason"] == "not installed"
    assert stages["broken"]["status"] == "failed" and "7" in stages["broken"]["reason"]
    assert stages["slow"]["status"] == "failed" and stages["slow"]["rows"] == [{"first": 1}]
    assert stages["slow"]["seconds"] < 15


def test_the_file_is_there_before_a_stage_ends(gpu_check, tmp_path: Path) -> None:
    """A stage reads the results file while it runs: the rows of the stage before it are on disk already."""
    out = tmp_path / "results.json"
    read = f"import json; print(json.dumps(dict(seen=len(json.load(open({str(out)!r}))['stages']['one']['rows']))))"
    selected = [
        gpu_check.Stage("one", python("print('{\"a\": 1}')"), 20),
        gpu_check.Stage("two", python(read), 20),
    ]
    assert gpu_check.run_stages(selected, out, 60, {}) == 0
    assert json.loads(out.read_text())["stages"]["two"]["rows"] == [{"seen": 1}]


def test_a_used_up_time_limit_skips_the_rest(gpu_check, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    assert gpu_check.run_stages([gpu_check.Stage("late", python("pass"), 20)], out, 0.5, {}) == 0
    assert json.loads(out.read_text())["stages"]["late"]["status"] == "skipped"
