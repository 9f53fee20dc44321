"""``python -m benchmarks``: the same work through every peer; ends with the table, the goals, the plot and the JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import bars, plots, readme, tables
from benchmarks.files import write_atomically
from benchmarks.harness import Limits, Run, default_memory, run_plan
from benchmarks.machine import ROOT, default_threads
from benchmarks.plan import entries
from benchmarks.worker import Effort

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
    parser.add_argument("--out", type=Path, help="folder (benchmarks/results; build/benchmarks with --quick)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch sees no GPU on this machine", file=sys.stderr)
        return 2
    out = options.out or (ROOT / ("build/benchmarks" if options.plan == "quick" else "benchmarks/results"))
    stem = out / options.device
    memory = options.memory_gb * 1e9 if options.memory_gb else default_memory(options.device)
    limits = Limits(memory)
    if options.plan == "full":
        limits = Limits(memory, slow_seconds=3600, process_seconds=7200, run_seconds=7 * 86400)
    if options.minutes is not None:
        limits = Limits(memory, limits.slow_seconds, limits.process_seconds, options.minutes * 60)
    effort = Effort(0.2 if options.plan == "quick" else 1.5, options.threads, PRODUCT_SIDE[options.device])
    plan = entries(options.plan, options.device, options.max_pixels, options.peers)
    if not plan:
        print("nothing to run: --peers or --max-pixels leave no case", file=sys.stderr)
        return 2
    console = Console()
    run = Run(options.plan, options.device, limits, effort)

    def save(results: dict[str, Any]) -> None:
        write_atomically(stem.with_suffix(".json"), json.dumps(results, indent=1) + "\n")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=sum(len(entry.peers) for entry in plan) + 2)

        def step(text: str) -> None:
            if progress.tasks[task].description:
                progress.advance(task)
            progress.update(task, description=text)
            if not console.is_terminal:
                print(text, flush=True)

        results = run_plan(run, plan, step, save)
        progress.advance(task)
    results["bars"] = bars.to_json(bars.bars(results)) if options.device == "cpu" else []
    save(results)
    page = page_of(results)
    write_atomically(stem.with_suffix(".md"), page)
    pictures = plots.draw(results, stem)
    console.print(Markdown(page))
    for path in (stem.with_suffix(".json"), stem.with_suffix(".md"), *pictures):
        console.print(str(path))
    return 0


def page_of(results: dict[str, Any]) -> str:
    """The whole results file as a page of tables, the short one first."""
    goals = ["## bars", "", *tables.bars_table(results["bars"]), ""] if results["bars"] else []
    return "\n".join([f"# {tables.machine_line(results)}", "", *tables.full_table(results), *goals, "## summary", "",
                      readme.block(results), ""])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
