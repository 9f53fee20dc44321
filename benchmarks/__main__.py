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
from benchmarks.harness import Run
from benchmarks.machine import ROOT
from benchmarks.plan import entries
from laparoflow.files import write_text
from laparoflow.machine import cores


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, under 2 minutes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=cores(), help="CPU threads of every peer")
    parser.add_argument("--peers", nargs="+", metavar="TEXT", help="only peers whose name contains one of these")
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
    plan = entries(options.quick, options.device, options.peers)
    if not plan:
        print("nothing to run: --peers leaves no case", file=sys.stderr)
        return 2
    out = options.out or (ROOT / ("build/benchmarks" if options.quick else "benchmarks/results"))
    path = out / f"{name_of(options.device)}.json"
    run = Run(options.device, options.threads, 0.2 if options.quick else 1.5, options.minutes * 60)
    if options.resume and path.exists():
        try:
            run.go_on_from(json.loads(path.read_text()))
        except ValueError as error:
            print(f"--resume: nothing to go on from: {error}", file=sys.stderr)

    def saved() -> dict[str, Any]:
        results = run.results()
        write_text(path, json.dumps(results, indent=1) + "\n")
        return results

    dtypes = {case.dtype for case, _ in plan}
    run.measure_rates(dtypes)
    work = [(case, peer) for case, peers in plan for peer in peers]
    console = Console()
    for case, peer in track(work, console=console, description=f"{len(work)} peers and cases"):
        console.print(f"{case.label}: {peer.name}", highlight=False)
        run.add(case, peer)
        saved()
    run.measure_rates(dtypes)
    console.print(Markdown(tables.page(saved())))
    console.print(str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
