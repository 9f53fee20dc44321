"""The page in a real browser that reaches no network: it renders, and its console stays empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, browser_session, find_browser
from test_write_report import pretrain_run, probe_run

from laparoflow.report import write_report

found = find_browser()
pytestmark = pytest.mark.skipif(found is None, reason="no chromium with chromedriver on this machine")
SHOWN = """return {
  headings: Array.from(document.querySelectorAll('h2'), e => e.textContent),
  rows: document.querySelectorAll('tbody tr').length,
  broken: Array.from(document.images).filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.alt),
  pictures: document.images.length,
  height: document.body.getBoundingClientRect().height,
  style: getComputedStyle(document.querySelector('table')).borderCollapse,
  foreign: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))
}"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert found is not None
    with browser_session(*found, tmp_path_factory.mktemp("browser") / "profile") as session:
        yield session


def test_the_page_renders_and_the_console_is_empty(browser: Browser, tmp_path: Path) -> None:
    runs = [probe_run(tmp_path / "probe"), pretrain_run(tmp_path / "run")]
    page = write_report(runs, tmp_path / "away" / "page.html")
    assert browser.open(page) == []
    shown = browser.run(SHOWN)
    assert len(shown["headings"]) == 2
    assert shown["rows"] > 4
    assert shown["pictures"] > 2
    assert shown["broken"] == []
    assert shown["foreign"] == []
    assert shown["height"] > 500
    assert shown["style"] == "collapse"  # the page's own style sheet is in force


def test_the_console_would_tell(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><html><head><link rel='icon' href='data:,'></head><body>"
        "<img src='https://pictures.invalid/a.png'><script>console.error('out of order')</script></body></html>"
    )
    entries = browser.open(page)
    assert {entry["source"] for entry in entries} == {"console-api", "network"}
    assert any("out of order" in entry["message"] for entry in entries)
