"""Progress of a counted piece of work: one bar where there is a terminal, else a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

EVERY = 60.0
"""Seconds between two lines where there is no terminal."""
_inside: list[str] = []
"""The pieces of work that go on now; what is a part of one shows nothing of its own."""


class Advance(Protocol):
    """Told how much more is done, and optionally what is worked on now."""

    def __call__(self, count: int = 1, what: str | None = None) -> None: ...


def counted(count: int, noun: str) -> str:
    """``1 clip``, ``2 clips``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@contextmanager
def progress(what: str, total: int | None, show: bool = True, note: Callable[[], str] = str) -> Iterator[Advance]:
    """Shows progress on standard error (the count, the rate, the time left) as it is told how many more are done.

    Args:
        what, total: name of the work and its count, None where that is not known.
        show: False shows nothing, also of the work inside.
        note: further words, asked for whenever something is shown.
    """
    shown = show and not _inside
    _inside.append(what)
    try:
        if not shown:
            yield lambda count=1, what=None: None
        elif sys.stderr.isatty():
            with _bar(what, total, note) as advance:
                yield advance
        else:
            yield _lines(what, total, note)
    finally:
        _inside.pop()


@contextmanager
def _bar(what: str, total: int | None, note: Callable[[], str]) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
               TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, note="", rate="")
        shown = begun = time.monotonic()
        done = 0

        def advance(count: int = 1, what: str | None = None) -> None:
            nonlocal shown, done
            done += count
            bar.update(task, advance=count, description=what)
            if (now := time.monotonic()) - shown > 1:
                shown = now
                bar.update(task, note=note(), rate=_rate(done / (now - begun)))

        yield advance


def _lines(what: str, total: int | None, note: Callable[[], str]) -> Advance:
    begun = shown = time.monotonic()
    done, name = 0, what

    def advance(count: int = 1, what: str | None = None) -> None:
        nonlocal shown, done, name
        done, name = done + count, what or name
        if (now := time.monotonic()) - shown < EVERY:
            return
        shown, rate = now, done / (now - begun)
        words = [f"{done} of {total}" if total else str(done), _rate(rate)]
        if total and rate > 0:
            words.append(f"about {_time((total - done) / rate)} left")
        print(f"{name}: {', '.join(filter(None, [*words, note()]))}", file=sys.stderr, flush=True)

    return advance


def _rate(rate: float) -> str:
    return f"{rate:.1f} a second" if rate >= 1 else f"{rate * 60:.1f} a minute"


def _time(seconds: float) -> str:
    minutes = max(0, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
