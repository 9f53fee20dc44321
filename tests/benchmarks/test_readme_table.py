"""The benchmark tables of the pages are those that the results files give."""

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
def pages(tmp_path: Path) -> tuple[readme.Page, readme.Page]:
    """A README and another page with empty tables, and their results file."""
    file = tmp_path / "cpu.json"
    file.write_text(json.dumps(FOUND))
    found = tuple(readme.Page(tmp_path / name, file, make)
                  for name, make in (("README.md", readme.peers_block), ("USE.md", readme.sizes_block)))  # fmt: skip
    for page in found:
        page.path.write_text(f"# Title\n{readme.BEGIN}\n{readme.END}\nrest\n")
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.path.name)
def test_the_pages_of_this_repository_agree_with_the_results_file(page: readme.Page) -> None:
    assert page.results.exists()
    assert readme.difference(page) is None


def test_the_table_is_written_between_the_markers_and_then_agrees(pages: tuple[readme.Page, readme.Page]) -> None:
    assert "differs" in (readme.difference(pages[0]) or "")
    assert readme.main([], pages) == 0
    assert readme.main(["--check"], pages) == 0
    text = pages[0].path.read_text()
    assert text.startswith("# Title\n") and text.endswith("\nrest\n")
    assert "| ours: native | 4.00 ms, 5 MB | 12.0 s, 5 MB |" in text
    assert "| dense PyTorch | 20.0 ms, 5 MB | out of memory |" in text


@pytest.mark.parametrize("change", ["12.0 s", "out of memory", "A processor"])
def test_a_changed_figure_is_found(pages: tuple[readme.Page, readme.Page], change: str) -> None:
    readme.main([], pages)
    pages[0].path.write_text(pages[0].path.read_text().replace(change, "0.1 s"))
    assert readme.main(["--check"], pages) == 1


def test_markers_without_a_file_and_a_file_without_markers_are_found(pages: tuple[readme.Page, readme.Page]) -> None:
    page = pages[0]
    readme.main([], pages)
    page.results.rename(page.results.with_name("moved.json"))
    assert "there is no cpu.json" in (readme.difference(page) or "")
    for nothing_shown in ("no table\n", f"{readme.BEGIN}\n{readme.END}\n"):
        page.path.write_text(nothing_shown)
        assert readme.difference(page) is None
    page.path.write_text("no table\n")
    page.results.with_name("moved.json").rename(page.results)
    assert "expected one" in (readme.difference(page) or "")


def test_the_page_tells_what_to_expect_per_size(pages: tuple[readme.Page, readme.Page]) -> None:
    readme.main([], pages)
    other = pages[1].path
    text = other.read_text()
    assert "| 1,024 | 4.00 ms, 5 MB | 4.00 ms, 5 MB | 20.0 ms, 5 MB |" in text
    assert "| 65,536 | 12.0 s, 5 MB | 12.0 s, 5 MB | out of memory |" in text
    other.write_text(text.replace("12.0 s", "11.0 s"))
    assert readme.main(["--check"], pages) == 1
