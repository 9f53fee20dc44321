"""A cache of version 1 (whole arrays, 28 times the disk) written anew in the present format."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from laparoflow.bounds import plain
from laparoflow.files import write_json
from laparoflow.video.cache import FORMAT, VERSION, CacheError, ClipRecord
from laparoflow.video.pictures import write_overview
from laparoflow.video.settings import PrepareSettings
from laparoflow.video.shards import Shard, ShardRecord, sha256, write_index


def convert_cache(old: Path, new: Path) -> list[ClipRecord]:
    """Write the finished clips of a cache of version 1 into a new folder, and return their records; the old one stays."""
    try:
        header = json.loads((old / "cache.json").read_text())
    except (OSError, ValueError) as error:
        raise CacheError(f"{old} is not a cache: {error}") from error
    if header.get("format") != FORMAT or header.get("version") != 1:
        raise CacheError(f"old: expected a cache of version 1, got version {header.get('version')} in {old}")
    if new.exists():
        raise CacheError(f"new: expected a folder that does not exist, got {new}")
    settings = PrepareSettings(dis_preset=header["settings"].get("dis_preset", "medium"))  # the flow's grid follows from it
    records = [
        _convert_clip(folder, new / "clips" / folder.name, settings)
        for folder in sorted((old / "clips").iterdir())
        if (folder / "clip.json").is_file()
    ]
    missing = {name: value for name, value in plain(settings).items() if name not in header["settings"]}
    write_json(new / "cache.json", {"format": FORMAT, "version": VERSION, "settings": {**header["settings"], **missing}})
    return records


def _convert_clip(old: Path, new: Path, settings: PrepareSettings) -> ClipRecord:
    clip: dict[str, Any] = json.loads((old / "clip.json").read_text())
    new.mkdir(parents=True)
    shards: list[ShardRecord] = []
    for number in range(clip.pop("shards")):
        content = json.loads((old / f"{number:05d}.json").read_text())
        shard = Shard(number, settings.jpeg_quality, settings.stored_stride)
        shard.record.excluded = content["excluded"]
        arrays = {part: _read(old / f"{number:05d}.{part}.npy", content["files"]) for part in ("frames", "flow", "valid")}
        for row, sample in enumerate(content["samples"]):
            valid = np.unpackbits(arrays["valid"][row], axis=-1, count=clip["width"]).astype(bool)
            flow = arrays["flow"][row].astype(np.float32)
            shard.add(**sample, image=np.ascontiguousarray(arrays["frames"][row]), flow=flow, valid=valid)
        shards.append(shard.write(new))
    if (old / "plan.json").is_file():
        (new / "plan.json").write_bytes((old / "plan.json").read_bytes())
    del clip["content_hash"]
    clip |= {"files": [shard.file for shard in shards], "flow_channels": 2, "flow_stride": settings.stored_stride}
    record = ClipRecord(**clip, index=write_index(new, shards))
    write_overview(new, record, new.parents[1] / "pictures" / f"{record.name}.png")
    write_json(new / "clip.json", asdict(record))
    return record


def _read(path: Path, files: dict[str, dict[str, Any]]) -> Any:
    """The array of a shard, or None where the shard kept no frame."""
    if path.name not in files:
        return None
    if not path.is_file() or sha256(path) != files[path.name]["sha256"]:
        raise CacheError(f"{path} is missing or damaged; prepare the videos again")
    return np.load(path, mmap_mode="r")
