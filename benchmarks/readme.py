"""The table of the README, written from a results file.

    python -m benchmarks.readme [--results FILE] [--readme FILE] [--check]

Between the markers stands what this module makes and nothing else; ``--check`` (and a test) fails when they differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.case import Case
from benchmarks.files import write_atomically
from benchmarks.machine import ROOT

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
RESULTS, README = ROOT / "benchmarks" / "results" / "cpu.json", ROOT / "README.md"
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


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["status"] != "ok":
        return tables.SHORT.get(row["status"], row["status"])
    return f"{tables.seconds_text(row['seconds'])}, {tables.bytes_text(row['extra_bytes'])}"


def insert(readme: str, text: str) -> str:
    """The README with ``text`` between its markers.

    Raises:
        ValueError: there is not exactly one pair of markers.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"README: expected one {BEGIN} followed by one {END}")
    head, rest = readme.split(BEGIN)
    return f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def difference(readme: Path, results: Path) -> str | None:
    """What is wrong between a README and its results file, in words, or None."""
    text = readme.read_text() if readme.exists() else ""
    if not results.exists():
        shown = text.split(BEGIN)[-1].split(END)[0].strip() if BEGIN in text else ""
        return f"{readme.name} shows a benchmark, but there is no {results.name}" if shown else None
    try:
        expected = insert(text, block(json.loads(results.read_text())))
    except ValueError as error:
        return str(error)
    return None if text == expected else f"{readme.name} differs from {results.name}: run python -m benchmarks.readme"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 when they differ")
    options = parser.parse_args(arguments)
    if options.check:
        wrong = difference(options.readme, options.results)
        print(wrong or f"{options.readme} agrees with {options.results}")
        return 1 if wrong else 0
    results = json.loads(options.results.read_text())
    write_atomically(options.readme, insert(options.readme.read_text(), block(results)))
    print(f"{options.readme}: table of {options.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
