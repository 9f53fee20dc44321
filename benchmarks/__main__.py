"""``python -m benchmarks``: the same work through every peer; ends with the table and the JSON."""

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
from benchmarks.harness import Limits, Run, default_memory
from benchmarks.machine import ROOT, default_threads
from benchmarks.plan import entries
from benchmarks.worker import Effort
from laparoflow.files import write_text


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, under 2 minutes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=default_threads(), help="CPU threads of every peer")
    parser.add_argument("--max-pixels", type=int, help="leave out cases of more pixels per frame")
    parser.add_argument("--peers", nargs="+", metavar="TEXT", help="only peers whose name contains one of these")
    parser.add_argument("--memory-gb", type=float, help="memory one peer may need (60 %% of what is free)")
    parser.add_argument("--minutes", type=float, default=18.0, help="start nothing after this (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run of this commit here has measured")
    parser.add_argument("--out", type=Path, help="folder (benchmarks/results; build/benchmarks with --quick)")
    return parser.parse_args(arguments)


def name_of(device: str) -> str:
    """The results file's name: the kind of GPU, so that figures of two kinds are kept apart, or cpu."""
    return torch.cuda.get_device_name().removeprefix("NVIDIA ").lower().replace(" ", "-") if device == "cuda" else "cpu"


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch sees no GPU on this machine", file=sys.stderr)
        return 2
    plan = entries(options.quick, options.device, options.max_pixels, options.peers)
    if not plan:
        print("nothing to run: --peers or --max-pixels leave no case", file=sys.stderr)
        return 2
    out = options.out or (ROOT / ("build/benchmarks" if options.quick else "benchmarks/results"))
    stem = out / name_of(options.device)
    memory = options.memory_gb * 1e9 if options.memory_gb else default_memory(options.device)
    limits = Limits(memory, run_seconds=options.minutes * 60)
    run = Run(options.device, limits, Effort(0.2 if options.quick else 1.5, options.threads))
    if options.resume and stem.with_suffix(".json").exists():
        try:
            run.go_on_from(json.loads(stem.with_suffix(".json").read_text()))
        except ValueError as error:
            print(f"--resume: nothing to go on from: {error}", file=sys.stderr)

    def save(results: dict[str, Any]) -> None:
        write_text(stem.with_suffix(".json"), json.dumps(results, indent=1) + "\n")

    dtypes = {case.dtype for case, _ in plan}
    run.measure_rates(dtypes)
    work = [(case, peer) for case, peers in plan for peer in peers]
    console = Console()
    for case, peer in track(work, console=console, description=f"{len(work)} peers and cases"):
        console.print(f"{case.label}: {peer.name}", highlight=False)
        run.add(case, peer)
        save(run.results())
    run.measure_rates(dtypes)
    results = run.results()
    save(results)
    console.print(Markdown(tables.page(results)))
    console.print(str(stem.with_suffix(".json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
