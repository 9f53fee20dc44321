"""The benchmark tables of the README and of the pages in docs/, written from the results files.

    python -m scripts.readme_tables

Between a page's markers stands what this module makes and nothing else; a test fails where one differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import tables
from benchmarks.case import Case
from benchmarks.machine import ROOT
from laparoflow.files import write_text

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
OURS, DENSE = "ours: native", "dense PyTorch"
SIZES = (1024, 8192, 65536)
DIM = 64


def plain_rows(results: tables.Row) -> dict[tuple[str, int, str], tables.Row]:
    """{(peer, pixels, part): row} of the one-frame plain cases of width DIM, in the first dtype of the results."""
    found = {}
    for row in results["rows"]:
        case = Case(**row["case"])
        if case == Case(case.pixels, DIM, dtype=results["rows"][0]["case"]["dtype"], device=case.device):
            found[row["peer"], case.pixels, row["part"]] = row
    return found


def sizes_of(plain: dict[tuple[str, int, str], tables.Row]) -> list[int]:
    """The sizes of ``plain_rows``, the smallest first."""
    return sorted({pixels for _, pixels, _ in plain})


def peers_block(results: tables.Row) -> str:
    """Forward + backward of each peer at three sizes: time and extra memory."""
    rows = plain_rows(results)
    sizes = [n for n in SIZES if n in sizes_of(rows)] or sizes_of(rows)[:3]
    lines = []
    for peer in dict.fromkeys(row["peer"] for row in results["rows"]):
        found = [rows.get((peer, n, "both")) for n in sizes]
        if any(row and row["status"] == "ok" for row in found):
            lines.append([peer, *map(tables.cell, found)])
    caption = (
        f"Seconds (median) and memory above inputs and gradients; N queries x N keys, D = {DIM}, "
        f"{results['rows'][0]['case']['dtype']}, one direction. {tables.machine_line(results)}"
    )
    return "\n".join([*tables.markdown(["forward + backward", *(f"N = {n:,}" for n in sizes)], lines), "", caption])


def sizes_block(results: tables.Row) -> str:
    """What to expect per N: time and memory of ours forward and with backward, beside the dense loss."""
    rows = plain_rows(results)
    columns = ((OURS, "forward"), (OURS, "both"), (DENSE, "both"))
    lines = [
        [f"{n:,}", *(tables.cell(rows.get((peer, n, part))) for peer, part in columns)]
        for n in sizes_of(rows) if rows.get((OURS, n, "both"), {}).get("status") == "ok"
    ]  # fmt: skip
    caption = (
        f"One frame of N queries and N keys, D = {DIM}, {results['rows'][0]['case']['dtype']}; B frames take about B "
        f"times as long. Seconds (median), and memory above inputs and gradients. {tables.machine_line(results)}"
    )
    header = ["N", "forward", "forward + backward", "dense PyTorch, forward + backward"]
    return "\n".join([*tables.markdown(header, lines), "", caption])


def gpu_block(results: tables.Row) -> str:
    """The plain form at N = 100,000 by our kernels: forward, backward, memory."""
    lines = []
    for backend, dim in ((backend, dim) for backend in ("native", "triton") for dim in (64, 128, 256)):
        case = Case(100_000, dim, dtype="bfloat16", device="cuda").label
        rows = [row for row in results["rows"] if row["label"] == case and row["peer"].startswith(f"ours: {backend}")]
        found = {row["part"]: row for row in reversed(rows) if row["status"] == "ok"}
        if {"forward", "backward"} <= set(found):
            times = [tables.seconds_text(found[part]["seconds"]) for part in ("forward", "backward")]
            memory = found.get("both", found["forward"])["extra_bytes"]
            lines.append([f"`{backend}`", str(dim), *times, tables.bytes_text(memory)])
    header = ["backend", "D", "forward", "backward", "extra memory"]
    return "\n".join([*tables.markdown(header, lines), "", tables.machine_line(results)])


class Page(NamedTuple):
    """A page, the results file that its table comes from, and what makes the table."""

    path: Path
    results: Path
    make: Callable[[tables.Row], str]


RESULTS = ROOT / "benchmarks" / "results"
PAGES = (
    Page(ROOT / "README.md", RESULTS / "cpu.json", peers_block),
    Page(ROOT / "docs" / "LOSS.md", RESULTS / "cpu.json", sizes_block),
    Page(ROOT / "docs" / "BACKENDS.md", RESULTS / "h200.json", gpu_block),
)


def insert(page: str, text: str) -> str:
    """The page with ``text`` between its markers.

    Raises:
        ValueError: there is not exactly one pair of markers.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"expected one {BEGIN} followed by one {END}")
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def main(pages: tuple[Page, ...] = PAGES) -> None:
    """Write the tables of the pages."""
    for page in pages:
        write_text(page.path, expected(page))
        print(f"{page.path}: table of {page.results}")


def expected(page: Page) -> str:
    """The page as its results file makes it."""
    return insert(page.path.read_text(), page.make(json.loads(page.results.read_text())))


if __name__ == "__main__":
    main()
