"""Reading a cache of frames and flow.

Layout::

    cache.json                  format, version, settings
    clips/NAME/plan.json        what the clip is made of and how, from the beginning of the work on it
    clips/NAME/clip.json        the finished clip: source, sizes, content hash, report; absent while it is prepared
    clips/NAME/index.npy        the finished clip's samples, an array of ``laparoflow.video.shards.SAMPLE``
    clips/NAME/00000.*          its shards, see ``laparoflow.video.shards``

There is no central list, so several processes or machines can write clips side by side, and one that dies
leaves the others' work whole. Opening reads two files a clip, however long the clip is.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import random
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from laparoflow.video.codec import decode_flow, decode_image
from laparoflow.video.shards import SAMPLE, damage, shard_name

FORMAT, VERSION = "laparoflow-cache", 2
SAMPLED_SHARDS = 8
"""Shards whose content is compared when a cache is opened with ``verify="sample"``."""


class CacheError(ValueError):
    """A cache that cannot be used; the message names the path and what to do."""


@dataclass(frozen=True)
class CachedFrame:
    """One frame of the cache.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        flow: float32 [2, H, W], (dx, dy) in pixels of this frame, source to target; [2 G, H, W] for flows over G gaps.
        valid: bool [H, W], True where the flow is consistent and the pixel visible.
        clip: index into ``FrameCache.clips``.
        frame: index in the source file.
        time: seconds in the source file; where its timestamps start again, seconds that go on from there.
        gap: distance to the flow's target in source frames; of several gaps the one with the most motion.
    """

    image: NDArray[np.uint8]
    flow: NDArray[np.float32]
    valid: NDArray[np.bool_]
    clip: int
    frame: int
    time: float
    gap: int

    def padded(self, height: int, width: int) -> CachedFrame:
        """Enlarged to height x width at right and bottom, black, without motion and invalid, to be batched."""
        sides = ((0, height - self.image.shape[0]), (0, width - self.image.shape[1]))
        image, flow = np.pad(self.image, (*sides, (0, 0))), np.pad(self.flow, ((0, 0), *sides))
        return replace(self, image=image, flow=flow, valid=np.pad(self.valid, sides))


@dataclass(frozen=True)
class ClipRecord:
    """A finished clip.

    Attributes:
        name, source, fingerprint: folder under ``clips``, path of the source when it was prepared, its hash.
        frames, height, width: number of cached frames, and their size in pixels.
        files: size in bytes and SHA-256 of each shard, empty for a shard without samples.
        index: size in bytes and SHA-256 of ``index.npy``.
        flow_channels, flow_stride: channels of the flow, 2 for each gap, and distance in pixels of stored vectors.
        border: circle and box that were found, in source pixels.
        report: frames read, damaged and left out with reasons.
    """

    name: str
    source: str
    fingerprint: str
    frames: int
    height: int
    width: int
    frame_rate: float
    files: list[dict[str, Any]]
    index: dict[str, Any]
    flow_channels: int
    flow_stride: int
    decoder: str
    border: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def content_hash(self) -> str:
        """SHA-256 of what is cached, independent of paths."""
        content = [self.index, self.files, self.height, self.width, self.flow_channels, self.flow_stride]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_header(path: Path) -> dict[str, Any]:
    """The checked content of ``cache.json``; a CacheError if ``path`` is no cache or one of another version."""
    file = path / "cache.json"
    try:
        header = json.loads(file.read_text())
    except FileNotFoundError:
        raise CacheError(f"{path} is not a cache: {file} does not exist; `laparoflow prepare` makes one") from None
    except ValueError as error:
        raise CacheError(f"{file} is damaged ({error}); prepare into a new folder") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CacheError(f"{file} does not describe a cache: expected format {FORMAT!r}")
    if header.get("version") != VERSION:
        older = "`laparoflow convert OLD --out NEW` writes it anew" if header.get("version") == 1 else "prepare again"
        raise CacheError(
            f"{path} is a cache of version {header.get('version')}, this program reads version {VERSION}; {older}"
        )
    return header


def read_clip(folder: Path) -> ClipRecord | None:
    """The record of a finished clip, or None while it is not finished."""
    try:
        return ClipRecord(**json.loads((folder / "clip.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise CacheError(f"{folder / 'clip.json'} is damaged ({error}); delete it and run prepare again") from error


def find_damage(folder: Path, clip: ClipRecord, hashed: Iterable[int] = ()) -> list[str]:
    """What is wrong with a clip's files; of the shards numbered ``hashed`` the content is compared, not only the size."""
    compare = set(hashed)
    found = [damage(folder / "index.npy", clip.index, bool(compare))]
    found += [damage(folder / shard_name(number), file, number in compare) for number, file in enumerate(clip.files)]
    return [problem for problem in found if problem is not None]


def read_index(folder: Path) -> NDArray[np.void]:
    """The samples of a finished clip, an array of ``SAMPLE`` that stays on the disk."""
    try:
        rows = np.load(folder / "index.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CacheError(f"{folder / 'index.npy'} cannot be read ({error}); run the same prepare command again") from error
    if rows.dtype != SAMPLE:
        raise CacheError(f"{folder / 'index.npy'} does not hold samples; run the same prepare command again")
    return rows


def read_sample(folder: str | Path, clip: ClipRecord, row: np.void, number: int = 0) -> CachedFrame:
    """One sample of a clip, the row of its index: opens the shard, reads the sample's bytes and closes it.

    ``number`` is that of the clip, for ``CachedFrame.clip``.
    """
    path = f"{folder}/{shard_name(int(row['shard']))}"
    try:
        with open(path, "rb", buffering=0) as file:
            parts = [os.pread(file.fileno(), int(row[f"{name}_bytes"]), int(row[name])) for name in ("image", "flow")]
    except OSError as error:
        raise CacheError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        image = decode_image(parts[0])
        flow, valid = decode_flow(parts[1], clip.flow_channels, clip.height, clip.width, clip.flow_stride)
    except Exception as error:  # of the decoders, each of a kind of its own
        raise CacheError(f"{path} is damaged or has become shorter; run the same prepare command again") from error
    return CachedFrame(image, flow, valid, number, int(row["frame"]), float(row["time"]), int(row["gap"]))


class FrameCache(Sequence[CachedFrame]):
    """Random access to a cache, which :meth:`open` verifies.

    Only the bytes of the frame that is asked for are read, and no file stays open, so a cache may have any number of
    shards. It can be pickled and sent to data loader workers.
    """

    def __init__(self, path: Path, header: dict[str, Any], clips: list[ClipRecord]) -> None:
        self.path = path
        self.header = header
        self.clips = clips
        self._index = [read_index(self._folder(clip)) for clip in clips]
        self._ends = np.cumsum([len(rows) for rows in self._index], dtype=int).tolist()

    def _folder(self, clip: ClipRecord) -> Path:
        return self.path / "clips" / clip.name

    def __reduce__(self) -> tuple[Any, ...]:
        return FrameCache, (self.path, self.header, self.clips)

    @classmethod
    def open(
        cls, path: Path | str, verify: Literal["hashes", "sample", "sizes"] = "sample", part: tuple[int, int] = (0, 1)
    ) -> FrameCache:
        """Open a cache and verify it.

        Args:
            path: folder of the cache.
            verify: "sizes" looks at the size of every file; "sample" also compares the SHA-256 of a few shards, drawn
                anew each time; "hashes" that of all of them.
            part: (k, n): this is process k of n that open the cache together; each compares an n-th of the shards.

        Raises:
            CacheError: if it is no cache, of another version, empty, or a shard is missing or corrupted.
        """
        if verify not in ("hashes", "sample", "sizes"):
            raise ValueError(f"verify must be 'hashes', 'sample' or 'sizes', got {verify!r}")
        if not 0 <= part[0] < part[1]:
            raise ValueError(f"part must be (k, n) with 0 <= k < n, got {part}")
        path = Path(path)
        header = read_header(path)
        folders = sorted(p for p in (path / "clips").glob("*") if p.is_dir())
        found = [(folder, read_clip(folder)) for folder in folders]
        finished = [(folder, clip) for folder, clip in found if clip is not None]
        if len(finished) < len(found):
            names = ", ".join(folder.name for folder, clip in found if clip is None)
            warnings.warn(f"{path}: not finished and left out: {names}; run prepare again to finish", stacklevel=2)
        shards = [(number, shard) for number, (_, clip) in enumerate(finished) for shard in range(len(clip.files))]
        compared = [] if verify == "sizes" else shards[part[0] :: part[1]]
        if verify == "sample":
            compared = random.sample(compared, min(SAMPLED_SHARDS, len(compared)))
        hashed: dict[int, list[int]] = {}
        for number, shard in compared:
            hashed.setdefault(number, []).append(shard)
        with ThreadPoolExecutor() as pool:
            checked = pool.map(lambda n: find_damage(*finished[n], hashed.get(n, ())), range(len(finished)))
            problems = [problem for clip_problems in checked for problem in clip_problems]
        if problems:
            more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
            listed = "; ".join(problems[:10])
            raise CacheError(f"{listed}{more}; run the same prepare command again to rebuild what is damaged")
        cache = cls(path, header, [clip for _, clip in finished])
        if not len(cache):
            raise CacheError(f"{path} holds no frame: no clip is finished, or every frame was left out")
        return cache

    @property
    def settings(self) -> dict[str, Any]:
        """The settings the cache was made with."""
        return dict(self.header["settings"])

    @property
    def content_hash(self) -> str:
        """SHA-256 over settings and the content of all clips, independent of paths."""
        parts = [json.dumps(self.settings, sort_keys=True), *(f"{c.name}:{c.content_hash}" for c in self.clips)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The different frame sizes (H, W) in the cache."""
        return sorted({(clip.height, clip.width) for clip in self.clips if clip.frames})

    @property
    def ranges(self) -> list[range]:
        """The positions of each clip's frames."""
        return [range(end - len(rows), end) for end, rows in zip(self._ends, self._index, strict=True)]

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends else 0

    def __getitem__(self, index: int) -> CachedFrame:  # type: ignore[override]
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"index {index} is out of range for a cache of {length} frames")
        index %= length
        number = bisect.bisect_right(self._ends, index)
        clip, row = self.clips[number], self._index[number][index - self._ends[number]]  # counted from the end of the clip
        return read_sample(self._folder(clip), clip, row, number)
