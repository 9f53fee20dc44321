"""One command for a machine with a GPU (``make gpu-check``): build, test, sanitize, tune, measure, one results file.

Needs no network: builds in place (``python setup.py build_ext --inplace``), uses what is installed, and works where only
some of the backends are there. Every stage runs in a process of its own and under a time limit; the results file is
written anew after each row, so stopping half way loses nothing. Under ten minutes in all.

    python benchmarks/gpu_check.py [--out FILE] [--limit SECONDS] [--only STAGE ...]

Exit status: 0 every stage passed or was skipped with a reason, 1 a stage failed, 3 no GPU on this machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NO_GPU_STATUS = 3
SIZES = (64, 128, 256)
PIXELS = 100_000
# goals on an H200 at N = M = 100,000, bf16, in seconds, and the share of the CUDA C++ speed asked of Triton
GOALS = {"forward": {64: 4.0e-3, 128: 4.5e-3, 256: 7.5e-3}, "backward": {64: 7.8e-3, 128: 13e-3, 256: 26e-3}}
Row = dict[str, Any]


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
    parser.add_argument("--stage", choices=sorted(MEASUREMENTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        for row in MEASUREMENTS[options.stage]():
            print(json.dumps(row), flush=True)
        return 0
    reason = why_no_gpu()
    if reason is not None:
        print(f"gpu-check: {reason}; nothing was built, tested or measured", file=sys.stderr)
        return NO_GPU_STATUS
    selected = (stage for stage in stages() if not options.only or stage.name in options.only)
    return run_stages(selected, options.out, options.limit, about(options.commit))


def run_stages(selected: Iterable[Stage], out: Path, limit: float, facts: Row) -> int:
    """Run the stages one after the other; the results file is complete up to the last finished row at any time."""
    results: Row = {"about": facts, "stages": {}}
    deadline = time.monotonic() + limit
    write_json(out, results)
    for stage in selected:
        left = min(stage.limit, deadline - time.monotonic())
        record: Row = {"command": " ".join(stage.command), "rows": []}
        results["stages"][stage.name] = record
        if stage.skip is not None or left <= 1:
            record |= {"status": "skipped", "reason": stage.skip or "the time of the whole check is used up"}
        else:
            print(f"gpu-check: {stage.name} (at most {left:.0f} s)", flush=True)
            run_stage(stage, left, record, lambda: write_json(out, results))
        print(f"gpu-check: {stage.name}: {record['status']} {record.get('reason', '')}", flush=True)
        write_json(out, results)
    failed = [name for name, record in results["stages"].items() if record["status"] == "failed"]
    print(f"gpu-check: results in {out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def run_stage(stage: Stage, seconds: float, record: Row, save: Callable[[], None]) -> None:
    """Run one command; lines of JSON it prints become rows, the rest its log."""
    started = time.monotonic()
    log: list[str] = []
    record["status"] = "running"
    process = subprocess.Popen(
        ["timeout", "--kill-after=5", f"{seconds:.0f}", *stage.command], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1", **stage.environment},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            row = parse_row(line)
            if row is None:
                log.append(line.rstrip())
                continue
            record["rows"].append(row)
            save()
    finally:
        if process.poll() is None and sys.exc_info()[0] is not None:
            process.terminate()
        status = process.wait()
        record["seconds"] = round(time.monotonic() - started, 1)
        record["log"] = log[-40:]
        record["status"] = "passed" if status == 0 else "failed"
        if status != 0:
            record["reason"] = f"stopped after {seconds:.0f} s" if status == 124 else f"exit status {status}"
        save()


def parse_row(line: str) -> Row | None:
    """A row if the line is one JSON object, None for any other output."""
    if not line.startswith("{"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def stages() -> Iterator[Stage]:
    """What to run, in the order of what is worth most if time runs out; what can run is asked after the build."""
    python = sys.executable
    no_nvcc = None if shutil.which("nvcc") or os.environ.get("CUDA_HOME") else "no nvcc: only the Triton backend is checked"
    yield Stage("build", [python, "setup.py", "build_ext", "--inplace"], 240, no_nvcc)
    yield Stage("backends", [python, "-m", "laparoflow_kernels"], 30)
    usable = available_backends()
    none = None if usable else "no backend but the reference can run on this GPU"
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    folder = ROOT / "tests" / "kernels"
    suite = [*pytest, "-rf", *in_parallel(), *(str(path) for path in sorted(folder.glob("test_*.py")))]
    this = [python, str(Path(__file__).resolve()), "--stage"]
    untuned = {"LAPAROFLOW_TRITON_AUTOTUNE": "0"}
    no_native, no_triton = (None if name in usable else f"{name} cannot run here" for name in ("native", "triton"))
    # a Hopper GPU takes the kernels of sm_90a; those of sm_80, which serve every other GPU, run there too
    sm80 = {"LAPAROFLOW_CUDA_PATH": "sm80"}
    one_path = no_native or (None if is_hopper() else "the sm_80 kernels are the only ones here")
    yield Stage("speed", [*this, "speed"], 90, none, untuned)
    yield Stage("tests", suite, 90, no_native, tested_with("native"))
    sanitizer = shutil.which("compute-sanitizer")
    # a sanitized process is some fifty times slower: one small file
    subset = [*pytest, str(folder / "test_identities.py")]
    missing = None if sanitizer else "compute-sanitizer is not installed"
    checked = [sanitizer or "", "--error-exitcode", "9", *subset]
    yield Stage("sanitizer", checked, 45, missing or no_native, tested_with("native"))
    # each variant of a Triton kernel compiles for seconds: the part of the suite that its interpreter runs, which covers it
    thinned = [*suite, "-p", "tests.triton.thinned"]
    yield Stage("tests_of_triton", thinned, 150, no_triton, {**tested_with("triton"), "LAPAROFLOW_TEST_DRAWS": "3"})
    yield Stage("limits", [*this, "limits"], 60, none, untuned)
    yield Stage("speed_of_sm80_kernels", [*this, "speed_of_native"], 40, one_path, sm80)
    yield Stage("tests_of_sm80_kernels", suite, 90, one_path, {**tested_with("native"), **sm80})
    yield Stage("tune", [*this, "tune"], 60, no_triton)
    yield Stage("speed_after_tuning", [*this, "speed"], 60, no_triton)


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

    query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    smi = output(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"])
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "nvidia_smi": dict(zip(query.split(","), (part.strip() for part in smi.split(",")), strict=False)),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": output([sys.executable, "-c", "import triton; print(triton.__version__)"]),
        "nvcc": output(["nvcc", "--version"]).splitlines()[-1:],
        "python": platform.python_version(),
        "commit": output(["git", "rev-parse", "HEAD"]) or commit,
        "uncommitted_changes": bool(output(["git", "status", "--porcelain", "--untracked-files=no"])),
    }


def output(command: list[str]) -> str:
    """What a command prints, "" where it cannot run."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def write_json(path: Path, content: Row) -> None:
    """Replace the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def make_problem(pixels: int, dim: int, **options: Any) -> Any:
    """One frame of random unit embeddings (bf16) and flows on the GPU; query and key need gradients."""
    import torch

    from laparoflow_kernels.problem import PackedFrames, PairProblem

    generator = torch.Generator("cuda").manual_seed(0)

    def side() -> tuple[torch.Tensor, PackedFrames]:
        rows = torch.nn.functional.normalize(torch.randn(pixels, dim, device="cuda", generator=generator), dim=1)
        flow = 3 * torch.randn(pixels, 2, device="cuda", generator=generator)
        offsets = torch.tensor([0, pixels], device="cuda")
        return rows.bfloat16().requires_grad_(), PackedFrames(flow, None, offsets, (pixels,), pixels)

    (query, query_frames), (key, key_frames) = side(), side()
    choices: dict[str, Any] = dict(
        flow_kernel="gaussian", positives="outside", negatives="all", scope="frame", symmetric=False, bounded=True
    )
    return PairProblem(
        query, key, query_frames, key_frames, torch.tensor(0.1, device="cuda"), torch.ones(1, device="cuda"),
        **{**choices, **options},
    )  # fmt: skip


def timed(run: Callable[[], Any], repeats: int) -> list[float]:
    """Sorted seconds of single runs by device events, after two runs that warm up."""
    import torch

    run(), run()
    seconds = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) * 1e-3)
    return sorted(seconds)


def measure(backend: str, problem: Any, repeats: int) -> Iterator[Row]:
    """Forward and backward of one backend: median and extremes in seconds, extra memory in bytes, agreement."""
    import torch

    from laparoflow_kernels.backends import load_backend

    module = load_backend(backend)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rows, _columns = module.statistics(problem)
    wrt = (problem.query, problem.key)
    upstream = torch.zeros_like(rows)
    upstream[0], upstream[2] = 1 / rows.shape[1], -1 / rows.shape[1]
    torch.autograd.grad(rows, wrt, upstream, retain_graph=True)
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    common = {
        "backend": backend, "N": problem.query.shape[0], "D": problem.query.shape[1], "dtype": "bfloat16",
        "flow_kernel": problem.flow_kernel, "positives": problem.positives, "symmetric": problem.symmetric,
        "deterministic": torch.are_deterministic_algorithms_enabled(), "extra_bytes": extra,
        "relative_error_of_lse_and_positive": sample_error(problem, rows.detach()),
    }  # fmt: skip
    for part, run in (
        ("forward", lambda: module.statistics(problem)),
        ("backward", lambda: torch.autograd.grad(rows, wrt, upstream, retain_graph=True)),
    ):
        seconds = timed(run, repeats)
        plain = common["N"] == PIXELS and not problem.symmetric and problem.positives == "outside"
        goal = GOALS[part].get(common["D"]) if plain else None
        yield {
            **common, "part": part, "seconds": seconds[len(seconds) // 2], "fastest": seconds[0], "slowest": seconds[-1],
            "goal_seconds": goal,
        }  # fmt: skip


def sample_error(problem: Any, rows: Any) -> list[float]:
    """Largest relative error of lse and positive on 64 rows, against float64."""
    import torch

    from laparoflow_kernels.backends.reference import flow_weights

    picked = torch.linspace(0, rows.shape[1] - 1, 64, device="cuda").long()
    s = problem.query[picked].detach().double() @ problem.key.detach().double().T / problem.temperature.double()
    flow, key_flow = problem.query_frames.flow[picked].double(), problem.key_frames.flow.double()
    w = flow_weights(flow[None], key_flow[None], problem.inv_bandwidth.double(), problem.flow_kernel)[0]
    inside = problem.positives == "inside"
    truth = torch.stack([s.logsumexp(1), (s + w.log()).logsumexp(1) if inside else (w * s).sum(1) / w.sum(1)])
    got = rows[[0, 2]][:, picked].double()
    return ((got - truth).abs().amax(1) / truth.abs().amax(1)).tolist()


def speed() -> Iterator[Row]:
    """N = M = 100,000 at D = 64, 128, 256: every backend, forward and backward."""
    for dim in SIZES:
        problem = make_problem(PIXELS, dim)
        for backend in available_backends():
            yield from measure(backend, problem, repeats=10)


def speed_of_native() -> Iterator[Row]:
    """The same of the native backend alone."""
    for dim in SIZES:
        yield from measure("native", make_problem(PIXELS, dim), repeats=10)


def tune() -> Iterator[Row]:
    """Fill the tile cache of the Triton backend and list what it holds."""
    if "triton" not in available_backends():
        return
    from laparoflow_kernels.backends.triton import tiles

    for dim in SIZES:
        yield from measure("triton", make_problem(PIXELS, dim), repeats=3)
    for key, entries in tiles._memory.items():
        yield {"tiles": key, "entries": entries}


def limits() -> Iterator[Row]:
    """The training size (8 frames of 56 x 56), other forms, the deterministic mode, a million pixels."""
    import torch

    for backend in available_backends():
        yield from measure(backend, make_problem(8 * 3136, 64), repeats=10)
        for options in (dict(symmetric=True), dict(positives="inside"), dict(positives="inside", symmetric=True)):
            yield from measure(backend, make_problem(PIXELS, 64, **options), repeats=5)
        torch.use_deterministic_algorithms(True)
        for dim in SIZES:
            yield from measure(backend, make_problem(PIXELS, dim), repeats=5)
        torch.use_deterministic_algorithms(False)
        yield from measure(backend, make_problem(1_000_000, 64), repeats=1)


MEASUREMENTS: dict[str, Callable[[], Iterator[Row]]] = {
    "speed": speed, "speed_of_native": speed_of_native, "tune": tune, "limits": limits,
}  # fmt: skip

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
