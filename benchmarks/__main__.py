"""``python -m benchmarks``: the same work through every peer; ends with the table, the goals and the JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

from benchmarks import tables
from benchmarks.goals import goals
from benchmarks.harness import Limits, Run, default_memory
from benchmarks.machine import ROOT, default_threads
from benchmarks.plan import entries
from benchmarks.worker import Effort
from laparoflow.files import write_text

PRODUCT_SIDE = {"cpu": 3072, "cuda": 8192}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="plan", action="store_const", const="quick", default="default", help="under 2 minutes")
    size.add_argument("--full", dest="plan", action="store_const", const="full", help="every peer and case, no time limit")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=default_threads(), help="CPU threads of every peer")
    parser.add_argument("--max-pixels", type=int, help="leave out cases of more pixels per frame")
    parser.add_argument("--peers", nargs="+", metavar="TEXT", help="only peers whose name contains one of these")
    parser.add_argument("--memory-gb", type=float, help="memory one peer may need (60 %% of what is free)")
    parser.add_argument("--minutes", type=float, help="start nothing after this (18; no limit with --full)")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run of this commit here has measured")
    parser.add_argument("--out", type=Path, help="folder (benchmarks/results; build/benchmarks with --quick)")
    return parser.parse_args(arguments)


def name_of(device: str) -> str:
    """The results file's name: the kind of GPU, so that figures of two kinds are kept apart, or cpu."""
    return torch.cuda.get_device_name().removeprefix("NVIDIA ").lower().replace(" ", "-") if device == "cuda" else "cpu"


def limits_of(options: argparse.Namespace) -> Limits:
    """What the run may use."""
    limits = {"memory_bytes": options.memory_gb * 1e9 if options.memory_gb else default_memory(options.device)}
    if options.plan == "full":
        limits |= {"slow_seconds": 3600, "process_seconds": 7200, "run_seconds": 7 * 86400}
    return Limits(**limits | ({} if options.minutes is None else {"run_seconds": options.minutes * 60}))


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch sees no GPU on this machine", file=sys.stderr)
        return 2
    plan = entries(options.plan, options.device, options.max_pixels, options.peers)
    if not plan:
        print("nothing to run: --peers or --max-pixels leave no case", file=sys.stderr)
        return 2
    out = options.out or (ROOT / ("build/benchmarks" if options.plan == "quick" else "benchmarks/results"))
    stem = out / name_of(options.device)
    effort = Effort(0.2 if options.plan == "quick" else 1.5, options.threads, PRODUCT_SIDE[options.device])
    run = Run(options.plan, options.device, limits_of(options), effort)
    if options.resume and stem.with_suffix(".json").exists():
        try:
            run.go_on_from(json.loads(stem.with_suffix(".json").read_text()))
        except ValueError as error:
            print(f"--resume: nothing to go on from: {error}", file=sys.stderr)

    def save(results: dict[str, Any]) -> None:
        write_text(stem.with_suffix(".json"), json.dumps(results, indent=1) + "\n")

    dtypes = {entry.case.dtype for entry in plan}
    run.measure_rates(dtypes)
    work = [(entry.case, peer) for entry in plan for peer in entry.peers]
    console = Console()
    for case, peer in track(work, console=console, description=f"{len(work)} peers and cases"):
        console.print(f"{case.label}: {peer.name}", highlight=False)
        run.add(case, peer)
        save(run.results())
    run.measure_rates(dtypes)
    results = run.results()
    results["goals"] = goals(results)
    save(results)
    console.print(Markdown(tables.page(results)))
    console.print(str(stem.with_suffix(".json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
