"""One command for a machine with a GPU (``make gpu-check``): build, test, sanitize, tune, measure, one results file.

Needs no network: builds in place (gpu_build.py), uses what is installed, and works where only some of the backends are
there. Every stage runs in a process of its own and under a time limit. Its output goes to OUT's folder of logs as it comes
(benchmarks/results/gpu_check/STAGE.log), and the results file is written anew at its start, after each row and at its end,
so stopping half way (control-C, SIGTERM, SIGHUP) loses nothing. Under ten minutes in all.

    python -m benchmarks.gpu_check [--out FILE] [--limit SECONDS] [--only STAGE ...]

A results file of the same commit and device, or any with --only, is added to. One of another commit or device stays until a
stage of this run has passed and given rows, and is replaced then; gpu_results.py has the details. After a build that
failed nothing that it should have built is tested or measured.

Exit status: 0 every stage passed or was skipped with a reason, 1 a stage failed, was stopped (at its time limit) or does not
exist, 3 no GPU on this machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_results import ResultsFile, Row  # noqa: E402  (run by its path, too)

NO_GPU_STATUS = 3
LOG_LINES = 40  # of a stage's output in the results file; all of it is in its log
SECONDS_TO_END = 10  # between the interrupt at the time limit and the kill


@dataclass
class Stage:
    """A named part of the check: a command, the seconds it may take, and why it is skipped, if it is."""

    name: str
    command: list[str]
    limit: float
    skip: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu_check.json")
    parser.add_argument("--limit", type=float, default=570.0, help="seconds for the whole check")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="run these stages alone")
    parser.add_argument("--commit", default="", help="of this tree, where it has come without its repository")
    options = parser.parse_args(arguments)
    reason = why_no_gpu()
    if reason is not None:
        print(f"gpu-check: {reason}; nothing was built, tested or measured", file=sys.stderr)
        return NO_GPU_STATUS
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    results = ResultsFile(options.out.resolve(), about(options.commit), only=bool(options.only))
    selected = (stage for stage in stages(results.outcome) if not options.only or stage.name in options.only)
    status = run_stages(selected, results, options.limit)
    unknown = sorted(set(options.only or ()) - set(results.ran))
    if unknown:
        print(f"gpu-check: --only: there is no stage {', '.join(unknown)}", file=sys.stderr)
    return status or int(bool(unknown))


def _exit(number: int, _frame: Any) -> None:
    raise SystemExit(128 + number)


def run_stages(selected: Iterable[Stage], results: ResultsFile, limit: float) -> int:
    """Run the stages one after the other; the results file is complete up to the last row at any time."""
    deadline = time.monotonic() + limit
    for stage in selected:
        left = min(stage.limit, deadline - time.monotonic())
        record = results.begin(stage.name, stage.command)
        if stage.skip is not None or left <= 1:
            record |= {"status": "skipped", "reason": stage.skip or "the time of the whole check is used up"}
        else:
            print(f"gpu-check: {stage.name} (at most {left:.0f} s)", flush=True)
            run_stage(stage, left, record, results)
        results.save()
        print(f"gpu-check: {stage.name}: {record['status']} {record.get('reason', '')}", flush=True)
    missed = [f"{name} {results.outcome(name)}" for name in results.ran if results.outcome(name) in ("failed", "stopped")]
    print(f"gpu-check: results in {results.written}" + (f"; {', '.join(missed)}" if missed else ""))
    if results.started is not None:
        print(f"gpu-check: nothing was measured, {results.path} of another commit or device stays")
    return 1 if missed else 0


def run_stage(stage: Stage, seconds: float, record: Row, results: ResultsFile) -> None:
    """Run one command; lines of JSON it prints become rows, the end of the rest its log, and all of it goes to a file."""
    log_file = results.log_file(stage.name)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    record |= {"status": "running", "log_file": str(log_file.relative_to(results.path.parent)), "log": []}
    results.save()
    started = time.monotonic()
    process = subprocess.Popen(
        ["timeout", "--signal=INT", f"--kill-after={SECONDS_TO_END}", f"{seconds:.0f}", *stage.command], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", preexec_fn=_interruptible,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **stage.environment},
    )  # fmt: skip
    assert process.stdout is not None
    ended = False
    try:
        with log_file.open("w", buffering=1) as log:
            for line in process.stdout:
                log.write(line)
                row = parse_row(line)
                if row is None:
                    record["log"] = [*record["log"], line.rstrip()][-LOG_LINES:]
                    continue
                record["rows"].append(row)
                results.save()
        process.wait()
        ended = True
    finally:
        if not ended:
            end(process)
        record["seconds"] = round(time.monotonic() - started, 1)
        record |= verdict(process.returncode, seconds, record["seconds"]) if ended else {
            "status": "stopped", "reason": "the check was interrupted"
        }  # fmt: skip
        results.save()


def verdict(status: int, limit: float, seconds: float) -> Row:
    """What an exit status of ``timeout`` means: 124 at the limit, 137 or -9 killed, at the limit or by something else."""
    if status == 0:
        return {"status": "passed"}
    if status == 124 or (status in (137, -signal.SIGKILL) and seconds >= round(limit)):
        return {"status": "stopped", "reason": f"stopped after {limit:.0f} s"}
    return {"status": "failed", "reason": f"exit status {status}"}


def _interruptible() -> None:
    """A shell's background jobs ignore interrupts, and Python keeps that; pytest must see the one at its time limit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end(process: subprocess.Popen[str]) -> None:
    """Interrupt a running stage; ``timeout`` hands it on to all its processes, and kills them when they take too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(SECONDS_TO_END + 5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def parse_row(line: str) -> Row | None:
    """A row if the line is one JSON object, None for any other output."""
    if not line.startswith("{"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def stages(outcome: Callable[[str], str | None]) -> Iterator[Stage]:
    """What to run, in the order of what is worth most if time runs out; what can run is asked after the build.

    Args:
        outcome: status of an earlier stage of this run, None where it was not asked for.
    """
    python = sys.executable
    no_nvcc = None if os.environ.get("CUDA_HOME") or tool("nvcc") else "no nvcc: only the Triton backend is checked"
    yield Stage("build", [python, "-m", "benchmarks.gpu_build"], 240, no_nvcc)
    yield Stage("backends", [python, "-m", "laparoflow_kernels"], 30)
    not_built = "the build failed" if outcome("build") in ("failed", "stopped") else None
    usable = [name for name in available_backends() if name != "native" or not not_built]
    none = None if usable else not_built or "no backend but the reference can run on this GPU"
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    folder = ROOT / "tests" / "kernels"
    suite = [*pytest, "-rf", *in_parallel(), *(str(path) for path in sorted(folder.glob("test_*.py")))]
    measure = [python, "-m", "benchmarks.gpu_measure"]
    untuned = {"LAPAROFLOW_TRITON_AUTOTUNE": "0"}
    no_native, no_triton = (None if name in usable else f"{name} cannot run here" for name in ("native", "triton"))
    no_native = not_built or no_native
    # a Hopper GPU takes the kernels of sm_90a; those of sm_80, which serve every other GPU, run there too
    sm80 = {"LAPAROFLOW_CUDA_PATH": "sm80"}
    one_path = no_native or (None if is_hopper() else "the sm_80 kernels are the only ones here")
    yield Stage("speed", [*measure, "speed", *usable], 90, none, untuned)
    yield Stage("tests", suite, 90, no_native, tested_with("native"))
    sanitizer = tool("compute-sanitizer")
    no_sanitizer = None if sanitizer else "compute-sanitizer is not installed"
    checked = [sanitizer or "compute-sanitizer", "--error-exitcode", "9", "--tool"]
    script = [python, "-m", "benchmarks.gpu_sanitized"]
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # an allocation a tensor, so that memcheck sees where each ends
    yield Stage("sanitizer", [*checked, "memcheck", *script], 30, no_native or no_sanitizer, uncached)
    yield Stage("sanitizer_races", [*checked, "racecheck", *script], 30, no_native or no_sanitizer, uncached)
    # each variant of a Triton kernel compiles for seconds: the part of the suite that its interpreter runs, which covers it
    thinned = [*suite, "-p", "tests.triton.thinned"]
    yield Stage("tests_of_triton", thinned, 150, no_triton, {**tested_with("triton"), "LAPAROFLOW_TEST_DRAWS": "3"})
    yield Stage("limits", [*measure, "limits", *usable], 60, none, untuned)
    yield Stage("speed_of_sm80_kernels", [*measure, "speed", "native"], 40, one_path, sm80)
    yield Stage("tests_of_sm80_kernels", suite, 90, one_path, {**tested_with("native"), **sm80})
    yield Stage(
        "sanitizer_of_sm80_kernels", [*checked, "memcheck", *script], 30, one_path or no_sanitizer, {**uncached, **sm80}
    )
    yield Stage("tune", [*measure, "tune", "triton"], 60, no_triton)
    yield Stage("speed_after_tuning", [*measure, "speed", *usable], 60, no_triton)


def tested_with(backend: str) -> dict[str, str]:
    """Environment of a test run of this backend on the GPU; the truth is computed beside it, one thread a process."""
    return {"LAPAROFLOW_TEST_BACKENDS": f"{backend}:cuda", "OMP_NUM_THREADS": "1"}


def in_parallel() -> list[str]:
    """pytest-xdist's options where it is installed."""
    processes = min(14, os.cpu_count() or 1)
    return ["-n", str(processes)] if importlib.util.find_spec("xdist") and processes > 1 else []


def is_hopper() -> bool:
    import torch

    return torch.cuda.get_device_capability() == (9, 0)


def available_backends() -> list[str]:
    """Fused backends that can run bf16 on the GPU, asked in a process of its own: the build may change the answer."""
    code = (
        "import torch; from laparoflow_kernels.backends import load_backend as b;"
        "print(' '.join(n for n in ('native', 'triton')"
        " if b(n).unavailable(torch.device('cuda'), torch.bfloat16, 64) is None))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.split() if run.returncode == 0 else []


def why_no_gpu() -> str | None:
    """Why nothing can be checked here, or None."""
    try:
        import torch
    except ImportError:
        return "torch is not installed for this Python"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU on this machine"
    return None


def about(commit: str) -> Row:
    """Device, driver, clocks, versions and commit (``commit`` where git does not know)."""
    import torch

    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": torch.cuda.get_device_name(0),
        "capability": list(torch.cuda.get_device_capability(0)),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "nvidia_smi": nvidia_smi(getattr(torch.cuda.get_device_properties(0), "uuid", None)),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": output([sys.executable, "-c", "import triton; print(triton.__version__)"]),
        "nvcc": output([tool("nvcc") or "nvcc", "--version"]).splitlines()[-1:],
        "python": platform.python_version(),
        "commit": output(["git", "rev-parse", "HEAD"]) or commit,
        "uncommitted_changes": bool(output(["git", "status", "--porcelain", "--untracked-files=no"])),
    }


def nvidia_smi(uuid: Any) -> dict[str, str]:
    """What nvidia-smi says of the GPU with this uuid, or of the only one it lists (a MIG device has a uuid of its own).

    Empty where there is no nvidia-smi, or several GPUs of which none has this uuid.
    """
    query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    lines = output([*command, "-i", f"GPU-{uuid}"]).splitlines() if uuid is not None else []
    lines = lines or output(command).splitlines()
    values = [value.strip() for value in lines[0].split(",")] if len(lines) == 1 else []
    names = query.split(",")
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else {}


def tool(name: str) -> str | None:
    """Where a program of the CUDA toolkit is: on PATH, in CUDA_HOME, in /usr/local/cuda, or beside the real nvcc."""
    roots = [Path(os.environ["CUDA_HOME"])] if os.environ.get("CUDA_HOME") else []
    roots.append(Path("/usr/local/cuda"))
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        # nvcc on PATH may be a wrapper script: as setup.py does, ask it instead of guessing from its place
        dryrun = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
        top = re.search(r"^#\$ TOP=(.+)$", dryrun.stderr, re.MULTILINE)
        roots += [Path(top.group(1).strip())] if top else []
        roots.append(Path(nvcc).resolve().parent.parent)
    folders = [str(root / part) for root in roots for part in ("bin", "compute-sanitizer")]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))


def output(command: list[str]) -> str:
    """What a command prints, "" where it cannot run."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
