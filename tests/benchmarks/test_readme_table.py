"""The tables of README and docs/LOSS.md are those that the results file gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from results_file import results

from benchmarks import readme
from benchmarks.case import Case

FOUND = results(
    ("ours: native", Case(1024), 0.004), ("dense PyTorch", Case(1024), 0.02), ("ours: native", Case(65536), 12.0),
    ("dense PyTorch", Case(65536), None), ("ours: native", Case(1024, 128), 0.5),
)  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A README with an empty table (USE.md, beside it, is another page), and a results file."""
    page, file = tmp_path / "README.md", tmp_path / "cpu.json"
    for path in (page, tmp_path / "USE.md"):
        path.write_text(f"# Title\n{readme.BEGIN}\n{readme.END}\nrest\n")
    file.write_text(json.dumps(FOUND))
    return page, file


def run(page: Path, file: Path, *options: str) -> int:
    return readme.main(["--readme", str(page), "--page", str(page.with_name("USE.md")), "--results", str(file), *options])


@pytest.mark.parametrize(("page", "make"), [(readme.README, readme.block), (readme.PAGE, readme.sizes_block)])
def test_the_pages_of_this_repository_agree_with_the_results_file(page: Path, make: Callable[[dict[str, Any]], str]) -> None:
    assert readme.difference(page, readme.RESULTS, make) is None


def test_the_table_is_written_between_the_markers_and_then_agrees(pair: tuple[Path, Path]) -> None:
    page, file = pair
    assert "differs" in (readme.difference(page, file) or "")
    assert run(page, file) == 0
    assert run(page, file, "--check") == 0
    text = page.read_text()
    assert text.startswith("# Title\n") and text.endswith("\nrest\n")
    assert "| ours: native | 4.00 ms, 5 MB | 12.0 s, 5 MB |" in text
    assert "| dense PyTorch | 20.0 ms, 5 MB | out of memory |" in text


@pytest.mark.parametrize("change", ["12.0 s", "out of memory", "A processor"])
def test_a_changed_figure_is_found(pair: tuple[Path, Path], change: str) -> None:
    page, file = pair
    run(page, file)
    page.write_text(page.read_text().replace(change, "0.1 s"))
    assert run(page, file, "--check") == 1


def test_markers_without_a_file_and_a_file_without_markers_are_found(pair: tuple[Path, Path]) -> None:
    page, file = pair
    run(page, file)
    file.rename(file.with_name("moved.json"))
    assert "there is no cpu.json" in (readme.difference(page, file) or "")
    for nothing_shown in ("no table\n", f"{readme.BEGIN}\n{readme.END}\n"):
        page.write_text(nothing_shown)
        assert readme.difference(page, file) is None
    page.write_text("no table\n")
    file.with_name("moved.json").rename(file)
    assert "expected one" in (readme.difference(page, file) or "")


def test_the_page_tells_what_to_expect_per_size(pair: tuple[Path, Path]) -> None:
    page, file = pair
    run(page, file)
    other = page.with_name("USE.md")
    text = other.read_text()
    assert "| 1,024 | 4.00 ms, 5 MB | 4.00 ms, 5 MB | 20.0 ms, 5 MB |" in text
    assert "| 65,536 | 12.0 s, 5 MB | 12.0 s, 5 MB | out of memory |" in text
    other.write_text(text.replace("12.0 s", "11.0 s"))
    assert run(page, file, "--check") == 1
