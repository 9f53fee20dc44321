"""``make gpu-check`` without a GPU: its exit status, and what it keeps while stages pass, fail, run over and are ended."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
NEW = {"device": "a GPU", "commit": "2" * 40, "date": "today"}


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("command", [[SCRIPT], ["-m", "benchmarks.gpu_check"]])
def test_without_a_gpu_it_says_so_and_leaves_nothing(tmp_path: Path, command: list) -> None:
    out = tmp_path / "results.json"
    run = subprocess.run([sys.executable, *command, "--out", out], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 3
    assert "sees no GPU" in run.stderr or "without CUDA" in run.stderr
    assert not out.exists()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def stages_of(path: Path) -> dict:
    return json.loads(path.read_text())["stages"]


def test_results_hold_rows_skips_failures_and_timeouts(gpu_check, tmp_path: Path) -> None:
    out = tmp_path / "folder" / "results.json"
    selected = [
        gpu_check.Stage("rows", python("print('{\"seconds\": 1.5}'); print('text')"), 20),
        gpu_check.Stage("missing", ["none"], 20, skip="not installed"),
        gpu_check.Stage("broken", python("for i in range(50): print(i)\nraise SystemExit(7)"), 20),
        gpu_check.Stage("slow", python("print('{\"first\": 1}', flush=True); import time; time.sleep(60)"), 3),
    ]
    assert gpu_check.run_stages(selected, gpu_check.ResultsFile(out, {"device": "none"}), 60) == 1
    assert json.loads(out.read_text())["about"] == {"device": "none"}
    stages = stages_of(out)
    assert stages["rows"]["status"] == "passed" and stages["rows"]["rows"] == [{"seconds": 1.5}]
    assert stages["rows"]["log"] == ["text"] and stages["rows"]["device"] == "none"
    assert stages["missing"]["status"] == "skipped" and stages["missing"]["reason"] == "not installed"
    assert stages["broken"]["status"] == "failed" and "7" in stages["broken"]["reason"]
    assert stages["broken"]["log"] == [str(i) for i in range(10, 50)]
    whole = out.parent / stages["broken"]["log_file"]
    assert whole == out.parent / "results" / "broken.log"
    assert whole.read_text().split() == [str(i) for i in range(50)]
    assert (out.parent / stages["rows"]["log_file"]).read_text() == '{"seconds": 1.5}\ntext\n'
    assert stages["slow"]["status"] == "stopped" and stages["slow"]["rows"] == [{"first": 1}]
    assert "KeyboardInterrupt" in (out.parent / stages["slow"]["log_file"]).read_text()
    assert stages["slow"]["seconds"] < 15


def test_a_stopped_stage_alone_is_not_a_pass(gpu_check, tmp_path: Path) -> None:
    slow = gpu_check.Stage("slow", python("import time; time.sleep(60)"), 2)
    assert gpu_check.run_stages([slow], gpu_check.ResultsFile(tmp_path / "results.json", {}), 60) == 1


def test_exit_statuses_of_timeout(gpu_check) -> None:
    given = {status: gpu_check.verdict(status, 30, 30.1)["status"] for status in (0, 1, 124, 137, -9)}
    assert given == {0: "passed", 1: "failed", 124: "stopped", 137: "stopped", -9: "stopped"}
    assert gpu_check.verdict(-9, 30, 4.0)["status"] == "failed"


def test_pytest_prints_its_summary_at_the_time_limit(gpu_check, tmp_path: Path) -> None:
    tests = "import time\n\ndef test_wrong():\n    assert 1 == 2\n\ndef test_slow():\n    time.sleep(60)\n"
    (tmp_path / "test_one.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path)]
    out = tmp_path / "results.json"
    gpu_check.run_stages([gpu_check.Stage("tests", command, 8)], gpu_check.ResultsFile(out, {}), 60)
    record = stages_of(out)["tests"]
    assert record["status"] == "stopped"
    assert any("1 failed" in line for line in record["log"]), record["log"]


def test_the_file_is_there_before_a_stage_ends(gpu_check, tmp_path: Path) -> None:
    """A stage reads the results file while it runs: rows of the stage before it, its own start, and its output so far."""
    out = tmp_path / "results.json"
    read = (
        f"import json, time; print('begun', flush=True); time.sleep(1); stages = json.load(open({str(out)!r}))['stages']; "
        f"log = open({str(tmp_path / 'results' / 'two.log')!r}).read(); "
        "print(json.dumps(dict(seen=len(stages['one']['rows']), status=stages['two']['status'], log=log)))"
    )
    selected = [
        gpu_check.Stage("one", python("print('{\"a\": 1}')"), 20),
        gpu_check.Stage("two", python(read), 20),
    ]
    assert gpu_check.run_stages(selected, gpu_check.ResultsFile(out, {}), 60) == 0
    assert stages_of(out)["two"]["rows"] == [{"seen": 1, "status": "running", "log": "begun\n"}]


def test_a_used_up_time_limit_skips_the_rest(gpu_check, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    late = gpu_check.Stage("late", python("pass"), 20)
    assert gpu_check.run_stages([late], gpu_check.ResultsFile(out, {}), 0.5) == 0
    assert stages_of(out)["late"]["status"] == "skipped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_running_stage_and_saves(tmp_path: Path, number: signal.Signals) -> None:
    out, pid = tmp_path / "results.json", tmp_path / "pid"
    stage = (
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); "
        "print('{\"a\": 1}', flush=True); time.sleep(60)"
    )
    check = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from benchmarks import gpu_check\n"
        "gpu_check.why_no_gpu = lambda: None\n"
        "gpu_check.about = lambda commit: {}\n"
        f"gpu_check.stages = lambda outcome: iter([gpu_check.Stage('long', [sys.executable, '-c', {stage!r}], 50)])\n"
        f"sys.exit(gpu_check.main(['--out', {str(out)!r}]))\n"
    )
    process = subprocess.Popen(python(check), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_default)
    until = time.monotonic() + 30
    while not (out.exists() and stages_of(out).get("long", {}).get("rows")) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(20) not in (0, 1) or number == signal.SIGINT
    record = stages_of(out)["long"]
    assert record["status"] == "stopped" and record["rows"] == [{"a": 1}] and "interrupted" in record["reason"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def _default() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def earlier(path: Path, **about: str) -> dict:
    content = {
        "about": {**NEW, "how": "by hand", **about},
        "stages": {"speed": {"status": "passed", "rows": [{"old": 1}]}, "tests": {"status": "failed", "rows": []}},
    }
    path.write_text(json.dumps(content))
    return content


def test_a_file_of_the_same_commit_and_device_is_added_to(gpu_check, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    earlier(out, date="yesterday")
    selected = [
        gpu_check.Stage("speed", ["none"], 20, skip="no time"),
        gpu_check.Stage("tests", python("pass"), 20),
        gpu_check.Stage("tune", ["none"], 20, skip="no Triton"),
    ]
    assert gpu_check.run_stages(selected, gpu_check.ResultsFile(out, NEW), 60) == 0
    results = json.loads(out.read_text())
    assert results["about"] == {**NEW, "how": "by hand"}
    stages = results["stages"]
    assert stages["speed"] == {"status": "passed", "rows": [{"old": 1}]}  # a skip takes nothing away
    assert stages["tests"]["status"] == "passed" and stages["tests"]["date"] == "today"
    assert stages["tune"]["status"] == "skipped"


@pytest.mark.parametrize("changed", [{"commit": "1" * 40}, {"device": "another GPU"}])
def test_a_file_of_another_commit_stays_until_something_was_measured(gpu_check, tmp_path: Path, changed: dict) -> None:
    out = tmp_path / "results.json"
    before = earlier(out, **changed)
    none = [
        gpu_check.Stage("backends", python("print('text')"), 20),
        gpu_check.Stage("speed", python("print('{\"new\": 1}'); raise SystemExit(1)"), 20),
    ]
    assert gpu_check.run_stages(none, gpu_check.ResultsFile(out, NEW), 60) == 1
    assert json.loads(out.read_text()) == before
    started = out.with_suffix(".started.json")
    assert stages_of(started)["speed"]["rows"] == [{"new": 1}]
    measured = gpu_check.Stage("speed", python("print('{\"new\": 1}')"), 20)
    assert gpu_check.run_stages([*none[:1], measured], gpu_check.ResultsFile(out, NEW), 60) == 0
    assert json.loads(out.read_text())["about"] == NEW and set(stages_of(out)) == {"backends", "speed"}
    assert not started.exists()


def test_chosen_stages_are_added_to_any_file(gpu_check, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    before = earlier(out, commit="1" * 40)
    selected = [gpu_check.Stage("tests", python("pass"), 20)]
    assert gpu_check.run_stages(selected, gpu_check.ResultsFile(out, NEW, only=True), 60) == 0
    assert json.loads(out.read_text())["about"] == before["about"]
    stages = stages_of(out)
    assert stages["speed"]["rows"] == [{"old": 1}]
    assert stages["tests"]["status"] == "passed" and stages["tests"]["commit"] == NEW["commit"]


def test_a_chosen_stage_that_does_not_exist_is_told(
    gpu_check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(gpu_check, "why_no_gpu", lambda: None)
    monkeypatch.setattr(gpu_check, "about", lambda commit: NEW)
    monkeypatch.setattr(gpu_check, "stages", lambda outcome: iter([gpu_check.Stage("tests", python("pass"), 20)]))
    monkeypatch.setattr(gpu_check.signal, "signal", lambda number, handler: None)  # this process keeps its handlers
    assert gpu_check.main(["--out", str(tmp_path / "results.json"), "--only", "tests", "test"]) == 1
    assert "there is no stage test" in capsys.readouterr().err


def test_unknown_commits_are_not_the_same(gpu_check, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    earlier(out, commit="")
    assert gpu_check.ResultsFile(out, {**NEW, "commit": ""}).started is not None


@pytest.fixture
def all_usable(gpu_check, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_check, "available_backends", lambda: ["native", "triton"])
    monkeypatch.setattr(gpu_check, "is_hopper", lambda: True)
    monkeypatch.setattr(gpu_check, "tool", lambda name: f"/tools/{name}")
    return gpu_check


NATIVE = {"tests", "speed_of_sm80_kernels", "tests_of_sm80_kernels"} | {
    "sanitizer", "sanitizer_races", "sanitizer_of_sm80_kernels",
}  # fmt: skip


@pytest.mark.parametrize("outcome", ["failed", "stopped"])
def test_after_a_failed_build_nothing_of_native_runs(all_usable, outcome: str) -> None:
    planned = {stage.name: stage for stage in all_usable.stages({"build": outcome}.get)}
    assert {name for name, stage in planned.items() if stage.skip == "the build failed"} == NATIVE
    assert "native" not in planned["speed"].command and planned["speed"].command[-1] == "triton"
    assert "native" not in planned["limits"].command


def test_after_a_failed_build_without_triton_nothing_is_measured(all_usable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_usable, "available_backends", lambda: ["native"])
    planned = {stage.name: stage for stage in all_usable.stages({"build": "failed"}.get)}
    assert planned["speed"].skip == planned["limits"].skip == "the build failed"


@pytest.mark.parametrize("outcome", ["passed", "skipped", None])
def test_with_a_build_or_without_being_asked_for_one_native_runs(all_usable, outcome: str | None) -> None:
    planned = {stage.name: stage for stage in all_usable.stages({"build": outcome}.get)}
    assert all(planned[name].skip is None for name in NATIVE)
    assert planned["speed"].command[-2:] == ["native", "triton"]
    for name, check, path in (
        ("sanitizer", "memcheck", None), ("sanitizer_races", "racecheck", None),
        ("sanitizer_of_sm80_kernels", "memcheck", "sm80"),
    ):  # fmt: skip
        stage = planned[name]
        assert stage.command[:5] == ["/tools/compute-sanitizer", "--error-exitcode", "9", "--tool", check]
        path_taken = {"LAPAROFLOW_CUDA_PATH": path} if path else {}
        assert stage.environment == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", **path_taken} and stage.limit <= 30


def test_the_stages_learn_the_outcome_of_the_build(all_usable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a run: the build fails, and what comes after it is asked for only then."""
    results = all_usable.ResultsFile(tmp_path / "results.json", {})
    monkeypatch.setenv("CUDA_HOME", "/none")

    def failing():
        for stage in all_usable.stages(results.outcome):
            stage.command = python("raise SystemExit(1)" if stage.name == "build" else "pass")
            yield stage

    assert all_usable.run_stages(failing(), results, 300) == 1
    assert {name for name in results.ran if results.outcome(name) == "skipped"} == NATIVE


@pytest.mark.parametrize("status", [0, 1])
def test_a_build_starts_without_the_old_extension(tmp_path: Path, status: int) -> None:
    from benchmarks import gpu_build

    package = tmp_path / "laparoflow_kernels"
    package.mkdir()
    built = package / "_C.cpython-311.so"
    for path in (built, package / "_C.json", package / "ops.py"):
        path.write_text("old")
    (tmp_path / "setup.py").write_text(
        f"from pathlib import Path\nbuilt = Path({str(built)!r})\nassert not built.exists()\n"
        f"assert not built.with_name('_C.json').exists()\nbuilt.write_text('new')\nraise SystemExit({status})\n"
    )
    assert gpu_build.main(tmp_path) == status
    assert (package / "ops.py").exists()
    assert [path.read_text() for path in package.glob("_C*")] == ([] if status else ["new"])


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_programs_of_the_toolkit_are_found(gpu_check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On PATH first, then in CUDA_HOME, then beside the nvcc that a wrapper script calls."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert gpu_check.tool("a-sanitizer") is None
    program(tmp_path / "path", "nvcc", f"echo '#$ TOP={tmp_path}/toolkit' >&2")
    beside = program(tmp_path / "toolkit" / "bin", "a-sanitizer", "")
    assert gpu_check.tool("a-sanitizer") == str(beside)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    at_home = program(tmp_path / "home" / "bin", "a-sanitizer", "")
    assert gpu_check.tool("a-sanitizer") == str(at_home)
    on_path = program(tmp_path / "path", "a-sanitizer", "")
    assert gpu_check.tool("a-sanitizer") == str(on_path)


LINE = "A GPU, 580.1, 345 MHz, 1980 MHz, 2619 MHz, 700.00 W, 30"


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (f'case "$*" in *"-i GPU-abc"*) echo "{LINE}";; *) echo x; echo y;; esac', "580.1"),
        (f'case "$*" in *-i*) exit 6;; *) echo "{LINE}";; esac', "580.1"),
        (f'case "$*" in *-i*) exit 6;; *) echo "{LINE}"; echo "{LINE}";; esac', None),
        ("echo 'No devices were found'", None),
        ("exit 9", None),
    ],
)
def test_nvidia_smi_is_asked_for_the_gpu_in_use(
    gpu_check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, found: str | None
) -> None:
    program(tmp_path, "nvidia-smi", script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu_check.nvidia_smi("abc").get("driver_version") == found


def test_about_survives_a_machine_without_nvidia_smi(gpu_check, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = types.SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(gpu_check, "output", lambda command: "")
    monkeypatch.setattr(gpu_check, "tool", lambda name: None)
    facts = gpu_check.about("given")
    assert facts["nvidia_smi"] == {} and facts["commit"] == "given" and facts["nvcc"] == []
