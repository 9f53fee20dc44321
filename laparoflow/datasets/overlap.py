"""The overlap guard: are videos that a probe tests on also in the pretraining set?

Known relations between public sets are data, in `overlaps.yaml`. Besides, equal names are taken for equal videos.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

Video = tuple[str, int]
DATA = Path(__file__).with_name("overlaps.yaml")


@cache
def _tables() -> dict[str, Any]:
    return yaml.safe_load(DATA.read_text(encoding="utf-8"))


def overlap_warnings(dataset: str, videos: Sequence[str], pretraining: Iterable[str]) -> list[str]:
    """Sentences about test videos of a labelled set that are, or may be, among the names or paths used for pretraining."""
    warnings = []
    tested = {video: _of_labelled(dataset, video) for video in videos}
    for clip in sorted(set(pretraining)):
        own = _of_path(clip)
        stem = PurePosixPath(clip.replace("\\", "/")).stem
        for video, identities in tested.items():
            if own and identities & own:
                warnings.append(f"overlap: pretraining video {clip} shows the procedure of test video {video}")
            elif own and _may_be_same(own, identities):
                warnings.append(f"overlap: pretraining video {clip} may show the procedure of test video {video}")
            elif not own and stem == video:
                warnings.append(f"overlap: pretraining video {clip} has the name of test video {video}")
    return warnings


def _of_labelled(dataset: str, video: str) -> frozenset[Video]:
    """The public videos that a test video is known to be from."""
    entry = _tables()["labelled"].get(dataset)
    if entry is None:
        return frozenset()
    if "numbers" in entry:
        return frozenset((entry["set"], number) for number in entry["numbers"])
    return _named(entry, video)


def _of_path(path: str) -> frozenset[Video]:
    """The public video that a pretraining path names."""
    return next(filter(None, (_named(source, path) for source in _tables()["sources"])), frozenset())


def _named(entry: dict[str, Any], text: str) -> frozenset[Video]:
    match = re.search(entry["pattern"], text)
    return frozenset({(entry["set"], int(match.group(1)))}) if match else frozenset()


def _may_be_same(first: frozenset[Video], second: frozenset[Video]) -> bool:
    """Whether two videos lie in groups that hold the same procedures; a group without numbers is a whole set."""

    def within(videos: frozenset[Video], group: dict[str, Any]) -> bool:
        return any(name == group["set"] and (not group["numbers"] or number in group["numbers"]) for name, number in videos)

    pairs = [pair for one, other in _tables()["overlaps"] for pair in ((one, other), (other, one))]
    return any(within(first, one) and within(second, other) for one, other in pairs)
