"""Shards: the unit in which a cache is written, verified and resumed.

A shard holds the kept frames of a fixed range of a clip's sampled frames, as three C-ordered arrays::

    00000.frames.npy   uint8   [n, H, W, 3]            RGB
    00000.flow.npy     float16 [n, 2, H, W]            (dx, dy) in pixels, source to target, 0 where not finite
    00000.valid.npy    uint8   [n, H, ceil(W / 8)]     bits, first pixel in the highest bit
    00000.json         samples, what was left out and why, size and SHA-256 of each array

The JSON is written last and everything is written atomically, so a shard that has its JSON is complete. A
shard from which every frame was left out has no arrays.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laparoflow.video.atomic import write_atomically, write_json

PARTS = ("frames", "flow", "valid")
LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Sample:
    """One kept frame: index and time (seconds) in the source, gap to the flow's target in source frames, and
    the motion within the frame in pixels."""

    frame: int
    time: float
    gap: int
    motion: float


@dataclass
class ShardRecord:
    """What a shard's JSON holds.

    Attributes:
        number: place of the shard in its clip.
        samples: the kept frames in order.
        excluded: source frames left out, by reason.
        files: per array file its size in bytes and SHA-256.
    """

    number: int
    samples: list[Sample] = field(default_factory=list)
    excluded: dict[str, list[int]] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


def shard_name(number: int) -> str:
    """File stem of a shard."""
    return f"{number:05d}"


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_shard(
    folder: Path,
    record: ShardRecord,
    frames: list[NDArray[np.uint8]],
    flows: list[NDArray[np.float32]],
    valids: list[NDArray[np.bool_]],
) -> ShardRecord:
    """Write arrays and JSON; returns the record with ``files`` filled in.

    Raises:
        DiskFullError: when the disk is full; shards written before stay.
    """
    files: dict[str, dict[str, Any]] = {}
    if frames:
        half = np.stack([np.clip(np.nan_to_num(flow), -LARGEST_HALF, LARGEST_HALF) for flow in flows])
        arrays: dict[str, NDArray[Any]] = {
            "frames": np.stack(frames),
            "flow": half.astype(np.float16),
            "valid": np.packbits(np.stack(valids), axis=-1),
        }
        for part in PARTS:
            path = folder / f"{shard_name(record.number)}.{part}.npy"
            with write_atomically(path) as file:
                np.save(file, np.ascontiguousarray(arrays[part]), allow_pickle=False)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    record.files = files
    write_json(folder / f"{shard_name(record.number)}.json", asdict(record))
    return record


def read_record(folder: Path, number: int) -> ShardRecord | None:
    """The record of a shard, or None if the shard is not complete."""
    path = folder / f"{shard_name(number)}.json"
    try:
        content = json.loads(path.read_text())
        content["samples"] = [Sample(**sample) for sample in content["samples"]]
        return ShardRecord(**content)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        return None


def damage(folder: Path, record: ShardRecord, hashes: bool) -> str | None:
    """What is wrong with a shard's files, or None: size, and with ``hashes`` also content."""
    for name, expected in record.files.items():
        path = folder / name
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
    stem = shard_name(number)
    (folder / f"{stem}.json").unlink(missing_ok=True)
    for part in PARTS:
        (folder / f"{stem}.{part}.npy").unlink(missing_ok=True)


def content_hash(records: list[ShardRecord]) -> str:
    """SHA-256 over the samples and file hashes of a clip's shards; paths and times of writing do not enter."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(asdict(record), sort_keys=True).encode())
    return digest.hexdigest()
