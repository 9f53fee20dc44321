"""OpenCV's threads: one for results that repeat, and none across a fork.

OpenCV keeps its threads between calls. A forked process has none of them and does not know it: its next call waits for them
for ever, or crashes. A process that estimates flow (here, or in the user's notebook) and then forks the readers of a
training run would stop there, so the threads end before each fork.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

_before_forks: list[int] = []


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """DIS splits its work by threads and its result depends on the split; one thread makes it repeatable."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _end_threads() -> None:
    _before_forks.append(cv2.getNumThreads())
    cv2.setNumThreads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(
        before=_end_threads,
        after_in_parent=lambda: cv2.setNumThreads(_before_forks.pop()),
        after_in_child=_before_forks.clear,
    )
