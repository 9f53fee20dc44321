"""Shards: the unit in which a cache is written, verified and resumed.

A shard holds the kept frames of a fixed range of a clip's sampled frames::

    00000.bin     the frames' pictures and flows as bytes (``laparoflow.video.codec``), one after the other
    00000.json    where each sample's bytes lie, what was left out and why, size and SHA-256 of the file

The JSON is written last and everything is written atomically, so a shard that has its JSON is complete. A
shard from which every frame was left out has no ``.bin``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from laparoflow.files import write_atomically, write_json
from laparoflow.video.codec import Flow, Image, Mask, encode_flow, encode_image


class Sample(NamedTuple):
    """One kept frame, a row of the index of its clip.

    Attributes:
        frame, time, gap: as in ``CachedFrame``.
        motion: within the frame in pixels.
        image, flow: offset in the shard of that number.
    """

    frame: int
    time: float
    gap: int
    motion: float
    shard: int
    image: int
    image_bytes: int
    flow: int
    flow_bytes: int


SAMPLE = np.dtype(list(zip(Sample._fields, ("<i8", "<f8", "<i4", "<f4", "<i4", "<i8", "<i4", "<i8", "<i4"), strict=True)))
"""A ``Sample`` in the index of a finished clip."""


@dataclass
class ShardRecord:
    """What a shard's JSON holds: place in the clip, kept frames, frames left out by reason, its file's size and SHA-256."""

    number: int
    samples: list[Sample] = field(default_factory=list)
    excluded: dict[str, list[int]] = field(default_factory=dict)
    file: dict[str, Any] = field(default_factory=dict)


class Shard:
    """A shard that is being filled: its place in the clip, the quality of its JPEG pictures, the stride of its flow."""

    def __init__(self, number: int, quality: int, stride: int) -> None:
        self.record = ShardRecord(number)
        self.quality, self.stride = quality, stride
        self._data = bytearray()

    def _append(self, data: bytes) -> tuple[int, int]:
        self._data += data
        return len(self._data) - len(data), len(data)

    def add(self, frame: int, time: float, gap: int, motion: float, image: Image, flow: Flow, valid: Mask) -> None:
        """Add a sample: image uint8 [H, W, 3], flow float32 [C, H, W], valid bool [H, W]."""
        places = *self._append(encode_image(image, self.quality)), *self._append(encode_flow(flow, valid, self.stride))
        self.record.samples.append(Sample(frame, round(time, 6), gap, round(motion, 4), self.record.number, *places))

    def exclude(self, reason: str, frame: int) -> None:
        self.record.excluded.setdefault(reason, []).append(frame)

    def write(self, folder: Path) -> ShardRecord:
        """Write file and JSON, and return the record; a DiskFullError leaves the shards that were written before."""
        if self._data:
            with write_atomically(folder / shard_name(self.record.number)) as file:
                file.write(self._data)
            self.record.file = {"bytes": len(self._data), "sha256": hashlib.sha256(self._data).hexdigest()}
        write_json(record_path(folder, self.record.number), asdict(self.record))
        return self.record


def shard_name(number: int) -> str:
    return f"{number:05d}.bin"


def record_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_record(folder: Path, number: int) -> ShardRecord | None:
    """The record of a shard, or None if the shard is not complete."""
    try:
        content = json.loads(record_path(folder, number).read_text())
        content["samples"] = [Sample(*sample) for sample in content["samples"]]
        return ShardRecord(**content)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def damage(path: Path, expected: dict[str, Any], hashes: bool) -> str | None:
    """What is wrong with a file, or None: its size, and with ``hashes`` also its content."""
    if not expected:
        return None
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    if size != expected["bytes"]:
        return f"{path} has {size} bytes instead of {expected['bytes']}"
    if hashes and sha256(path) != expected["sha256"]:
        return f"{path} is corrupted: its SHA-256 is not the recorded one"
    return None


def remove_shard(folder: Path, number: int) -> None:
    """Delete a shard, its JSON first, so that a half deleted one counts as not there."""
    record_path(folder, number).unlink(missing_ok=True)
    (folder / shard_name(number)).unlink(missing_ok=True)


def write_index(folder: Path, records: list[ShardRecord]) -> dict[str, Any]:
    """Write ``index.npy``, the samples of all shards as an array of ``SAMPLE``; returns its size and SHA-256."""
    rows: NDArray[np.void] = np.array([tuple(sample) for record in records for sample in record.samples], SAMPLE)
    path = folder / "index.npy"
    with write_atomically(path) as file:
        np.save(file, rows, allow_pickle=False)
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
