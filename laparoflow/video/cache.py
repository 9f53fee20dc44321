"""Reading a cache of frames and flow.

Layout::

    cache.json                  format, version, settings
    clips/NAME/plan.json        what the clip is made of and how, from the beginning of the work on it
    clips/NAME/clip.json        the finished clip: source, sizes, content hash, report; absent while it is prepared
    clips/NAME/00000.*          its shards, see ``laparoflow.video.shards``

There is no central list, so several processes or machines can write clips side by side, and one that dies
leaves the others' work whole. Reading needs numpy alone.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from laparoflow.video.shards import ShardRecord, content_hash, damage, read_record, shard_name

FORMAT, VERSION = "laparoflow-cache", 1


class CacheError(ValueError):
    """A cache that cannot be used; the message names the path and what to do."""


@dataclass(frozen=True)
class CachedFrame:
    """One frame of the cache.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        flow: float32 [2, H, W], (dx, dy) in pixels of this frame, source to target.
        valid: bool [H, W], True where the flow is consistent and the pixel visible.
        clip: index into ``FrameCache.clips``.
        frame: index in the source file.
        time: seconds in the source file; where its timestamps start again, seconds that go on from there.
        gap: distance to the flow's target in source frames.
    """

    image: NDArray[np.uint8]
    flow: NDArray[np.float32]
    valid: NDArray[np.bool_]
    clip: int
    frame: int
    time: float
    gap: int


@dataclass(frozen=True)
class ClipRecord:
    """A finished clip.

    Attributes:
        name: folder under ``clips``.
        source: path of the video when it was prepared.
        fingerprint: hash that recognises the source file.
        frames: number of cached frames.
        height, width: size of the cached frames in pixels.
        frame_rate: frames per second of the source.
        shards: number of shards.
        content_hash: SHA-256 of what is cached, independent of paths.
        decoder: what decoded the source.
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
    shards: int
    content_hash: str
    decoder: str
    border: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


def read_header(path: Path) -> dict[str, Any]:
    """The checked content of ``cache.json``.

    Raises:
        CacheError: if ``path`` is no cache or one of another version.
    """
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
        raise CacheError(
            f"{path} is a cache of version {header.get('version')}, this program reads version {VERSION}; "
            "prepare the videos again into a new folder"
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


def find_damage(
    folder: Path, clip: ClipRecord, hashes: bool, part: tuple[int, int] = (0, 1)
) -> tuple[list[ShardRecord], list[str]]:
    """The shard records of a clip, and what is wrong with them.

    Args:
        folder: of the clip.
        clip: its record.
        hashes: read the files and compare their content, not only their sizes.
        part: (k, n): compare the content of the shards whose number leaves the remainder k when divided by n.
    """
    records, problems = [], []
    for number in range(clip.shards):
        record = read_record(folder, number)
        if record is None:
            problems.append(f"{folder / shard_name(number)}.json is missing or damaged")
            continue
        records.append(record)
        problem = damage(folder, record, hashes and number % part[1] == part[0])
        if problem:
            problems.append(problem)
    if not problems and content_hash(records) != clip.content_hash:
        problems.append(f"{folder}: the shards' records are not those of the finished clip")
    return records, problems


class FrameCache(Sequence[CachedFrame]):
    """Random access to a cache.

    Only the bytes of the frame that is asked for are read, and no file stays open, so a cache may have any number of
    shards; the system keeps what was read in memory, one copy for all processes. Open it with ``FrameCache.open``. It can
    be pickled and sent to data loader workers.
    """

    def __init__(self, path: Path, header: dict[str, Any], clips: list[ClipRecord], shards: list[list[ShardRecord]]):
        self.path = path
        self.header = header
        self.clips = clips
        self._shards = [(index, record) for index, records in enumerate(shards) for record in records if record.samples]
        self._ends = list(np.cumsum([len(record.samples) for _, record in self._shards], dtype=int).tolist())

    @classmethod
    def open(
        cls, path: Path | str, verify: Literal["hashes", "sizes"] = "hashes", part: tuple[int, int] = (0, 1)
    ) -> FrameCache:
        """Open a cache and verify it.

        Args:
            path: folder of the cache.
            verify: "hashes" reads every shard once and compares its SHA-256; "sizes" only looks at file
                sizes.
            part: (k, n): this is process k of n that open the cache together; each reads an n-th of the shards.

        Returns:
            The cache.

        Raises:
            CacheError: if it is no cache, of another version, empty, or a shard is missing or corrupted.
        """
        if verify not in ("hashes", "sizes"):
            raise ValueError(f"verify must be 'hashes' or 'sizes', got {verify!r}")
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
        with ThreadPoolExecutor() as pool:
            checked = list(pool.map(lambda pair: find_damage(pair[0], pair[1], verify == "hashes", part), finished))
        problems = [problem for _, clip_problems in checked for problem in clip_problems]
        if problems:
            raise CacheError(
                "; ".join(problems[:10])
                + (f" and {len(problems) - 10} more" if len(problems) > 10 else "")
                + "; run the same prepare command again to rebuild what is damaged"
            )
        cache = cls(path, header, [clip for _, clip in finished], [records for records, _ in checked])
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
        parts = [
            json.dumps(self.settings, sort_keys=True),
            *(f"{c.name}:{c.content_hash}" for c in self.clips),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The different frame sizes (H, W) in the cache."""
        return sorted({(clip.height, clip.width) for clip in self.clips if clip.frames})

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends else 0

    def _row(self, shard: int, row: int, part: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """One row of a shard's array, read from its place in the file: rows end where the file ends."""
        index, record = self._shards[shard]
        name = f"{shard_name(record.number)}.{part}.npy"
        path = f"{self.path}/clips/{self.clips[index].name}/{name}"
        values = np.empty(shape, dtype)
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(record.files[name]["bytes"] - (len(record.samples) - row) * values.nbytes)
                read = file.readinto(values.data)
        except OSError as error:
            raise CacheError(f"cannot read {path}: {error.strerror or error}") from error
        if read != values.nbytes:
            raise CacheError(f"{path} has become shorter; run the same prepare command again to rebuild what is damaged")
        return values

    def __getitem__(self, index: int) -> CachedFrame:  # type: ignore[override]
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"index {index} is out of range for a cache of {length} frames")
        index %= length
        shard = bisect.bisect_right(self._ends, index)
        clip, record = self._shards[shard]
        row = index - (self._ends[shard - 1] if shard else 0)
        sample = record.samples[row]
        height, width = self.clips[clip].height, self.clips[clip].width
        bits = self._row(shard, row, "valid", "u1", (height, (width + 7) // 8))
        return CachedFrame(
            image=self._row(shard, row, "frames", "u1", (height, width, 3)),
            flow=self._row(shard, row, "flow", "<f2", (2, height, width)).astype(np.float32),
            valid=np.unpackbits(bits, axis=-1, count=width).astype(bool),
            clip=clip,
            frame=sample.frame,
            time=sample.time,
            gap=sample.gap,
        )
