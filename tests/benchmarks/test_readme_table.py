"""The README's table is the one that its results file gives."""

from __future__ import annotations

import json
from pathlib import Path

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
    """A README with an empty table, and a results file."""
    page, file = tmp_path / "README.md", tmp_path / "cpu.json"
    page.write_text(f"# Title\n{readme.BEGIN}\n{readme.END}\nrest\n")
    file.write_text(json.dumps(FOUND))
    return page, file


def test_the_readme_of_this_repository_agrees_with_its_results_file() -> None:
    assert readme.difference(readme.README, readme.RESULTS) is None


def test_the_table_is_written_between_the_markers_and_then_agrees(pair: tuple[Path, Path]) -> None:
    page, file = pair
    assert "differs" in (readme.difference(page, file) or "")
    assert readme.main(["--readme", str(page), "--results", str(file)]) == 0
    assert readme.main(["--readme", str(page), "--results", str(file), "--check"]) == 0
    text = page.read_text()
    assert text.startswith("# Title\n") and text.endswith("\nrest\n")
    assert "| ours: native | 4.00 ms, 5 MB | 12.0 s, 5 MB |" in text
    assert "| dense PyTorch | 20.0 ms, 5 MB | out of memory |" in text


@pytest.mark.parametrize("change", ["12.0 s", "out of memory", "A processor"])
def test_a_changed_figure_is_found(pair: tuple[Path, Path], change: str) -> None:
    page, file = pair
    readme.main(["--readme", str(page), "--results", str(file)])
    page.write_text(page.read_text().replace(change, "0.1 s"))
    assert readme.main(["--readme", str(page), "--results", str(file), "--check"]) == 1


def test_markers_without_a_file_and_a_file_without_markers_are_found(pair: tuple[Path, Path]) -> None:
    page, file = pair
    readme.main(["--readme", str(page), "--results", str(file)])
    file.rename(file.with_name("moved.json"))
    assert "there is no cpu.json" in (readme.difference(page, file) or "")
    for nothing_shown in ("no table\n", f"{readme.BEGIN}\n{readme.END}\n"):
        page.write_text(nothing_shown)
        assert readme.difference(page, file) is None
    page.write_text("no table\n")
    file.with_name("moved.json").rename(file)
    assert "expected one" in (readme.difference(page, file) or "")
