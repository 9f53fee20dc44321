"""Which clip of a cache a source is: the one that was made of the same content, or else a new one with a name of its own.

A source that moved, or comes with other inputs than before, keeps its clip, and one content is one clip. Processes that
start one after the other come to the same names: what one of them has written by then names the same sources alike.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from laparoflow.video.cache import CacheError, read_clip
from laparoflow.video.plan import fingerprint, read_plan

LONGEST = 160  # bytes of a clip's name


class KnownClip(NamedTuple):
    """A clip that a cache holds or has begun, its source as it was recorded when the clip was begun."""

    name: str
    fingerprint: str
    source: str | None
    finished: bool


def known_clips(cache: Path) -> list[KnownClip]:
    """The clips that a cache holds or has begun, by name; a CacheError where the record of a finished one is damaged."""
    known = []
    for folder in sorted((cache / "clips").glob("*")):
        clip = read_clip(folder)
        facts = vars(clip) if clip is not None else read_plan(folder) or {}
        if "fingerprint" in facts:
            known.append(KnownClip(folder.name, facts["fingerprint"], facts.get("source"), clip is not None))
    return known


def _short(name: str) -> str:
    """A name that is valid text and leaves room for endings: a long one is cut, and keeps apart by a hash of the whole."""
    text = os.fsencode(name).decode("utf-8", "replace").replace("\ufffd", "_")
    if len(text.encode()) <= LONGEST:
        return text
    return f"{text.encode()[: LONGEST - 9].decode('utf-8', 'ignore')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def clip_names(sources: Sequence[Path], beside: Sequence[Path] = (), taken: Sequence[str] = ()) -> list[str]:
    """A name for every source: its stem, with as many parent folders as it takes to be unique.

    The names differ from those of the sources ``beside`` as well, and from those that are ``taken``.
    """
    everything = list({*sources, *beside})

    def name(source: Path, depth: int) -> str:
        parts = (*source.parent.parts[1:], source.stem if source.suffix and not source.is_dir() else source.name)
        return _short("__".join(parts[-depth:]))

    @cache
    def counts(depth: int) -> Counter[str]:
        return Counter(name(other, depth) for other in everything)

    deepest = max((len(source.parts) for source in everything), default=0)
    names: list[str] = []
    used = set(taken)
    for source in sources:
        unique = (name(source, depth) for depth in range(1, deepest + 1) if counts(depth)[name(source, depth)] == 1)
        whole = name(source, deepest) + source.suffix.replace(".", "_")
        numbered = (f"{whole}_{number}" for number in count(2))
        names.append(next(one for one in chain(unique, [whole], numbered) if one not in used))
        used.add(names[-1])
    return names


def identify(sources: Sequence[Path], cache: Path, pattern: str | None = None) -> tuple[dict[Path, str], dict[Path, str]]:
    """The clip's name of each source (different absolute paths) in a cache, which need not exist yet, and copies of others.

    A copy has the name of the clip that has its content.

    Raises:
        CacheError: if the cache holds a clip of what lay at a source's path before, or a damaged record.
    """
    known = known_clips(cache)

    def fingerprinted(source: Path) -> str | None:
        with suppress(OSError):  # what is wrong with it is said when it is opened
            return fingerprint(source, pattern)
        return None

    with ThreadPoolExecutor() as pool:
        prints = dict(zip(sources, pool.map(fingerprinted, sources), strict=True))
    free = {clip.name: clip for clip in known}
    names: dict[Path, str] = {}

    def claim(source: Path, place: str | None = None) -> bool:
        """Give a source the first free clip of its content, whose source lay at that place if one is named."""
        for clip in free.values():
            if clip.fingerprint == prints[source] and place in (None, clip.source):
                names[source] = free.pop(clip.name).name
                return True
        return False

    for source in sources:  # where it was before
        claim(source, str(source))
    first = {prints[source]: source for source in names}
    fresh: list[Path] = []
    copies: list[Path] = []
    for source in (source for source in sources if source not in names):
        content = prints[source]
        if claim(source):  # it moved
            first.setdefault(content, source)
        elif content is not None and content in first:
            copies.append(source)
        else:
            first[content] = source
            fresh.append(source)

    replaced = {clip.source: clip for clip in free.values()}
    unnamed: list[Path] = []
    for source in fresh:
        before = replaced.get(str(source)) if prints[source] is not None else None
        if before is None:
            unnamed.append(source)
        elif before.finished:
            raise CacheError(
                f"{cache} already holds a clip {before.name!r} of another file that lay at {source}; rename the file "
                "or choose another folder"
            )
        else:
            names[source] = before.name
    beside = [*names, *(Path(clip.source) for clip in known if clip.source is not None)]
    names.update(zip(unnamed, clip_names(unnamed, beside, [clip.name for clip in known]), strict=True))
    ordered = {source: names[source] for source in sources if source in names}
    return ordered, {copy: names[first[prints[copy]]] for copy in copies}
