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
    assert page.path.read_text() == readme.expected(page), "run python -m benchmarks.readme"


def test_the_table_is_written_between_the_markers(pages: tuple[readme.Page, readme.Page]) -> None:
    assert pages[0].path.read_text() != readme.expected(pages[0])
    readme.main(pages)
    text = pages[0].path.read_text()
    assert text == readme.expected(pages[0])
    assert text.startswith("# Title\n") and text.endswith("\nrest\n")
    assert "| ours: native | 4.00 ms, 5 MB | 12.0 s, 5 MB |" in text
    assert "| dense PyTorch | 20.0 ms, 5 MB | out of memory |" in text


@pytest.mark.parametrize("change", ["12.0 s", "out of memory", "A processor"])
def test_a_changed_figure_is_found(pages: tuple[readme.Page, readme.Page], change: str) -> None:
    readme.main(pages)
    pages[0].path.write_text(pages[0].path.read_text().replace(change, "0.1 s"))
    assert pages[0].path.read_text() != readme.expected(pages[0])


def test_a_page_without_markers_is_refused(pages: tuple[readme.Page, readme.Page]) -> None:
    pages[0].path.write_text("no table\n")
    with pytest.raises(ValueError, match="expected one"):
        readme.main(pages)


def test_the_page_tells_what_to_expect_per_size(pages: tuple[readme.Page, readme.Page]) -> None:
    readme.main(pages)
    text = pages[1].path.read_text()
    assert "| 1,024 | 4.00 ms, 5 MB | 4.00 ms, 5 MB | 20.0 ms, 5 MB |" in text
    assert "| 65,536 | 12.0 s, 5 MB | 12.0 s, 5 MB | out of memory |" in text
