"""The page in a real browser that reaches no network: it renders, it answers, and its console stays empty."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import Browser, browser_session, find_browser
from test_write_report import pretrain_run, probe_run

from laparoflow.report import write_report
from laparoflow.report.explore import Item, explorer
from laparoflow.report.headline import Headline
from laparoflow.report.html import write_page
from laparoflow.report.sections import Section
from laparoflow_kernels import pairwise_flow_weights

found = find_browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(found is None, reason="no chromium with chromedriver on this machine"),
]
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


def explored_page(out: Path) -> tuple[list[Item], Path]:
    """A page with a frame, its other view and an unrelated frame."""
    draw = torch.Generator().manual_seed(0)
    items = []
    for number, (height, width, group) in enumerate(((5, 7, 0), (4, 4, 0), (6, 5, -1))):
        image = np.full((8 * height, 8 * width, 3), 60 * number, np.uint8)
        guide = None if group < 0 else torch.randn(2, height, width, generator=draw)
        if guide is not None:
            guide[:, 0, 0] = torch.nan
        embedding = torch.randn(16, height, width, generator=draw)
        layers = {} if number else {"truth": 255 - image}
        items.append(Item(f"frame {number}", image, embedding[:5], embedding, layers, group, guide))
    data = explorer(items, "cauchy", 0.8)
    return items, write_page(out, "Explored", [Section("Run", "run", explorer=data)], Headline())


def ready(browser: Browser) -> None:
    """Waits until the pictures of the page are decoded."""
    for _ in range(100):
        if browser.run("return Boolean(document.querySelector('.explorer').explorer)"):
            return
        time.sleep(0.1)
    raise AssertionError("the explorer did not start")


def shown_map(browser: Browser, number: int) -> np.ndarray:
    maps = f"document.querySelector('.explorer').explorer.maps[{number}]"
    values = browser.run(f"return Array.from({maps}, v => isNaN(v) ? null : v)")
    return np.array([np.nan if value is None else value for value in values])


@pytest.mark.parametrize("width", [1280, 390])
def test_a_click_compares_the_pixel_with_all_frames(browser: Browser, tmp_path: Path, width: int) -> None:
    items, page = explored_page(tmp_path / "page.html")
    browser.resize(width, 900)
    assert browser.open(page) == []
    ready(browser)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    before = browser.run("return document.querySelector('canvas.main').toDataURL()")
    main = "const c = document.querySelector('canvas.main'); c.scrollIntoView(); const b = c.getBoundingClientRect();"
    box = browser.run(f"{main} return [b.x, b.y, b.width, b.height]")
    row, column = 3, 1
    x, y = box[0] + box[2] * (column + 0.5) / 7, box[1] + box[3] * (row + 0.5) / 5
    browser.tap(round(x), round(y), "touch" if width < 500 else "mouse")
    assert browser.run("return document.querySelector('canvas.main').toDataURL()") != before
    query = F.normalize(items[0].embedding[:, row, column], dim=0)
    for number, item in enumerate(items):
        expected = torch.einsum("chw,c->hw", F.normalize(item.embedding, dim=0), query).flatten().numpy()
        assert np.abs(shown_map(browser, number) - expected).max() < 0.02  # two vectors in 8 bits

    browser.run("document.querySelector('.explorer').explorer.choose('pair weights')")
    for number, item in enumerate(items[:2]):
        guide = item.guide.flatten(1).T[None]
        one = items[0].guide[:, row, column][None, None]
        keep = torch.isfinite(guide).all(-1)
        expected = pairwise_flow_weights(one, guide, bandwidth=0.8, flow_kernel="cauchy", key_mask=keep)[0, 0].numpy()
        found = shown_map(browser, number)
        assert np.isnan(found[0])
        assert np.abs(found[1:] - expected[1:]).max() < 1e-5
    assert np.isnan(shown_map(browser, 2)).all()
    assert browser.open(page) == []


def test_keys_move_the_pixel_and_change_layer_and_frame(browser: Browser, tmp_path: Path) -> None:
    _, page = explored_page(tmp_path / "page.html")
    browser.open(page)
    ready(browser)
    browser.run("document.querySelector('canvas.main').focus()")
    state = "const e = document.querySelector('.explorer').explorer; return [e.query.row, e.query.column, e.layer, e.shown]"
    assert browser.run(state) == [2, 3, "similarity", 0]
    browser.press("\ue013")  # up
    browser.press("\ue012")  # left
    assert browser.run(state) == [1, 2, "similarity", 0]
    browser.press("\ue00f")  # page down
    browser.press("5")
    assert browser.run(state) == [1, 2, "truth", 1]
    assert browser.run("return document.querySelector('.readout').textContent") == "frame 1 has no truth."
    browser.run("document.querySelectorAll('.others button')[0].click()")
    assert browser.run(state)[3] == 0
