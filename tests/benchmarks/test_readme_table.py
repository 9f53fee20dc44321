"""The benchmark tables of the pages are those that the results files give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from results_file import results

from benchmarks.case import Case
from scripts import readme_tables

FOUND = results(
    ("ours: native", Case(1024), 0.004), ("dense PyTorch", Case(1024), 0.02), ("ours: native", Case(65536), 12.0),
    ("dense PyTorch", Case(65536), None), ("ours: native", Case(1024, 128), 0.5),
)  # fmt: skip


@pytest.fixture
def pages(tmp_path: Path) -> tuple[readme_tables.Page, readme_tables.Page]:
    """A README and another page with empty tables, and their results file."""
    file = tmp_path / "cpu.json"
    file.write_text(json.dumps(FOUND))
    makers = {"README.md": readme_tables.peers_block, "USE.md": readme_tables.sizes_block}
    found = tuple(readme_tables.Page(tmp_path / name, file, make) for name, make in makers.items())
    for page in found:
        page.path.write_text(f"# Title\n{readme_tables.BEGIN}\n{readme_tables.END}\nrest\n")
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("page", readme_tables.PAGES, ids=lambda page: page.path.name)
def test_the_pages_of_this_repository_agree_with_the_results_file(page: readme_tables.Page) -> None:
    assert page.path.read_text() == readme_tables.expected(page), "run python -m scripts.readme_tables"


def test_the_table_is_written_between_the_markers(pages: tuple[readme_tables.Page, readme_tables.Page]) -> None:
    assert pages[0].path.read_text() != readme_tables.expected(pages[0])
    readme_tables.main(pages)
    text = pages[0].path.read_text()
    assert text == readme_tables.expected(pages[0])
    assert text.startswith("# Title\n") and text.endswith("\nrest\n")
    assert "| ours: native | 4.00 ms, 5 MB | 12.0 s, 5 MB |" in text
    assert "| dense PyTorch | 20.0 ms, 5 MB | out of memory |" in text


@pytest.mark.parametrize("change", ["12.0 s", "out of memory", "A processor"])
def test_a_changed_figure_is_found(pages: tuple[readme_tables.Page, readme_tables.Page], change: str) -> None:
    readme_tables.main(pages)
    pages[0].path.write_text(pages[0].path.read_text().replace(change, "0.1 s"))
    assert pages[0].path.read_text() != readme_tables.expected(pages[0])


def test_a_page_without_markers_is_refused(pages: tuple[readme_tables.Page, readme_tables.Page]) -> None:
    pages[0].path.write_text("no table\n")
    with pytest.raises(ValueError, match="expected one"):
        readme_tables.main(pages)


def test_the_page_tells_what_to_expect_per_size(pages: tuple[readme_tables.Page, readme_tables.Page]) -> None:
    readme_tables.main(pages)
    text = pages[1].path.read_text()
    assert "| 1,024 | 4.00 ms, 5 MB | 4.00 ms, 5 MB | 20.0 ms, 5 MB |" in text
    assert "| 65,536 | 12.0 s, 5 MB | 12.0 s, 5 MB | out of memory |" in text
