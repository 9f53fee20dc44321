"""The tables of the README and of docs/LOSS.md, written from a results file.

    python -m benchmarks.readme [--results FILE] [--readme FILE] [--page FILE] [--check]

Between a page's markers stands what this module makes and nothing else; ``--check`` (and a test) fails where one differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.case import Case
from benchmarks.files import write_atomically
from benchmarks.machine import ROOT

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
RESULTS, README = ROOT / "benchmarks" / "results" / "cpu.json", ROOT / "README.md"
PAGE = ROOT / "docs" / "LOSS.md"
OURS, DENSE = "ours: native", "dense PyTorch"
SIZES = (1024, 8192, 65536)
DIM = 64


def block(results: dict[str, Any]) -> str:
    """What stands between the markers: forward + backward of each peer at three sizes, time and extra memory."""
    present = tables.plain_sizes(results, DIM)
    sizes = [n for n in SIZES if n in present] or present[:3]
    first = results["rows"][0]["case"]
    labels = [Case(n, DIM, dtype=first["dtype"], device=first["device"]).label for n in sizes]
    rows = {(row["peer"], row["label"]): row for row in results["rows"] if row["part"] == "both"}
    lines = []
    for peer in tables.peers_of(results):
        cells = [rows.get((peer, label)) for label in labels]
        if any(cell and cell["status"] == "ok" for cell in cells):
            lines.append([peer, *(_cell(cell) for cell in cells)])
    header = ["forward + backward", *(f"N = {n:,}" for n in sizes)]
    caption = (
        f"Seconds (median) and memory above inputs and gradients; N queries x N keys, D = {DIM}, {first['dtype']}, "
        f"one direction. {tables.machine_line(results)}"
    )
    return "\n".join([*tables.markdown(header, lines), "", caption])


def sizes_block(results: dict[str, Any]) -> str:
    """What to expect per N: time and memory of ours forward and with backward, beside the dense loss."""
    first = results["rows"][0]["case"]
    rows = {(row["peer"], row["label"], row["part"]): row for row in results["rows"]}
    lines = []
    for n in tables.plain_sizes(results, DIM):
        label = Case(n, DIM, dtype=first["dtype"], device=first["device"]).label
        forward, both = (rows.get((OURS, label, part)) for part in ("forward", "both"))
        if both and both["status"] == "ok":
            lines.append([f"{n:,}", _cell(forward), _cell(both), _cell(rows.get((DENSE, label, "both")))])
    header = ["N", "forward", "forward + backward", "dense PyTorch, forward + backward"]
    caption = (
        f"One frame of N queries and N keys, D = {DIM}, {first['dtype']}; B frames take about B times as long. Seconds "
        f"(median), and memory above inputs and gradients. {tables.machine_line(results)}"
    )
    return "\n".join([*tables.markdown(header, lines), "", caption])


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["status"] != "ok":
        return tables.SHORT.get(row["status"], row["status"])
    return f"{tables.seconds_text(row['seconds'])}, {tables.bytes_text(row['extra_bytes'])}"


def insert(page: str, text: str) -> str:
    """The page with ``text`` between its markers.

    Raises:
        ValueError: there is not exactly one pair of markers.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"expected one {BEGIN} followed by one {END}")
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def difference(page: Path, results: Path, make: Callable[[dict[str, Any]], str] = block) -> str | None:
    """What is wrong between a page and its results file, in words, or None."""
    text = page.read_text() if page.exists() else ""
    if not results.exists():
        shown = text.split(BEGIN)[-1].split(END)[0].strip() if BEGIN in text else ""
        return f"{page.name} shows a benchmark, but there is no {results.name}" if shown else None
    try:
        expected = insert(text, make(json.loads(results.read_text())))
    except ValueError as error:
        return f"{page.name}: {error}"
    return None if text == expected else f"{page.name} differs from {results.name}: run python -m benchmarks.readme"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 when they differ")
    options = parser.parse_args(arguments)
    pages = ((options.readme, block), (options.page, sizes_block))
    if options.check:
        wrong = [difference(page, options.results, make) for page, make in pages]
        print("\n".join(filter(None, wrong)) or f"{options.readme} and {options.page} agree with {options.results}")
        return 1 if any(wrong) else 0
    results = json.loads(options.results.read_text())
    for page, make in pages:
        write_atomically(page, insert(page.read_text(), make(results)))
        print(f"{page}: table of {options.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
