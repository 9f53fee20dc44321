"""A headless browser, driven over the WebDriver protocol with the standard library alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DRIVERS = ("chromedriver",)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no address resolves: the page has what it holds itself
)
PATIENCE = 60.0


def find_browser() -> tuple[str, str] | None:
    """Paths of the driver and the browser, None where one of them is missing."""
    driver = next(filter(None, map(shutil.which, DRIVERS)), None)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    return (driver, browser) if driver and browser else None


class Browser:
    """A session of a browser.

    Args:
        address: of the driver's session.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def open(self, page: Path) -> list[dict[str, Any]]:
        """Loads a file; returns what the console holds then, as entries of level, source and message."""
        _ask(f"{self.address}/url", {"url": page.resolve().as_uri()})
        return _ask(f"{self.address}/se/log", {"type": "browser"})

    def resize(self, width: int, height: int) -> None:
        """Makes the page's view this large, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        _ask(f"{self.address}/goog/cdp/execute", command)

    def press(self, key: str) -> None:
        """A key, sent to what has the focus."""
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        _ask(f"{self.address}/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def tap(self, x: int, y: int, kind: str = "touch") -> None:
        """A touch or a mouse click at a place of the view."""
        press = [{"type": step, "button": 0} for step in ("pointerDown", "pointerUp")]
        steps = [{"type": "pointerMove", "x": x, "y": y}, *press]
        pointer = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}, "actions": steps}
        _ask(f"{self.address}/actions", {"actions": [pointer]})

    def run(self, script: str) -> Any:
        """What a script in the page returns."""
        return _ask(f"{self.address}/execute/sync", {"script": script, "args": []})


@contextmanager
def browser_session(driver: str, browser: str, profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile, closed at the end."""
    log = profile.with_suffix(".log")
    command = [driver, "--port=0"]
    with log.open("w") as out, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, text=True) as process:
        try:
            root = f"http://127.0.0.1:{_port(process)}"
            wanted = {
                "goog:chromeOptions": {"binary": browser, "args": [*SWITCHES, f"--user-data-dir={profile}"]},
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            session = _ask(f"{root}/session", {"capabilities": {"alwaysMatch": wanted}})
            address = f"{root}/session/{session['sessionId']}"
            try:
                yield Browser(address)
            finally:
                _ask(address, None, "DELETE")
        finally:
            process.terminate()


def _port(process: subprocess.Popen[str]) -> int:
    """The port that the driver chose, from what it prints at its start."""
    assert process.stdout is not None
    for line in process.stdout:
        if "successfully on port" in line:
            return int(line.rstrip().rstrip(".").rsplit(" ", 1)[1])
    raise RuntimeError("the driver ended without naming its port")


def _ask(address: str, content: dict[str, Any] | None, method: str = "POST") -> Any:
    """One command of the protocol; returns its value.

    Raises:
        RuntimeError: the driver refused; the message is its own.
    """
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    began = time.monotonic()
    while True:
        try:
            with opener.open(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error
        except ConnectionRefusedError:
            if time.monotonic() - began > PATIENCE:
                raise
            time.sleep(0.1)
