"""What a cache of many hours costs: opening it, memory, and random frames per CPU second, beside a cache of one clip.

    python -m scripts.reading_speed CACHE [--videos 200 --hours 1 --frame_rate 5]

The large cache is made of the small one: the shards of a clip are hard links to one copy of a shard of it, so that the
index, the number of files and their names are those of real hours, without their bytes. What is read is therefore in
memory, in both.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from laparoflow.files import write_json
from laparoflow.video.cache import FrameCache, read_index
from laparoflow.video.shards import sha256, shard_name

BATCHES, BATCH_SIZE = 60, 16


def enlarge(small: FrameCache, out: Path, videos: int, frames: int) -> None:
    """Write a cache of `videos` clips of about `frames` frames at `out`, on the same disk as `small`."""
    clip = small.clips[0]
    folder = small.path / "clips" / clip.name
    rows = read_index(folder)
    rows = rows[rows["shard"] == rows["shard"][0]]
    number = int(rows["shard"][0])
    copies = max(1, round(frames / len(rows)))
    index = np.tile(np.asarray(rows), copies)
    index["shard"] = np.repeat(np.arange(copies), len(rows))
    first = out / "clips" / "video000"
    first.mkdir(parents=True)
    np.save(first / "index.npy", index)
    facts = {"bytes": (first / "index.npy").stat().st_size, "sha256": sha256(first / "index.npy")}
    shutil.copy(small.path / "cache.json", out)
    for video in range(videos):
        place = out / "clips" / f"video{video:03d}"
        place.mkdir(exist_ok=True)
        if video:
            os.link(first / "index.npy", place / "index.npy")
        shutil.copy(folder / shard_name(number), place / shard_name(0))
        for copy in range(1, copies):
            os.link(place / shard_name(0), place / shard_name(copy))
        record = dataclasses.replace(
            clip, name=place.name, frames=len(index), files=[clip.files[number]] * copies, index=facts
        )
        write_json(place / "clip.json", dataclasses.asdict(record))


def opened(path: Path) -> tuple[FrameCache, dict[str, float]]:
    """A cache, and the seconds and CPU seconds that opening it took."""
    begun, used = time.perf_counter(), time.process_time()
    cache = FrameCache.open(path)
    took = {"open_s": time.perf_counter() - begun, "open_cpu_s": time.process_time() - used}
    return cache, {**took, "frames": len(cache)}


def rates(caches: Sequence[FrameCache]) -> list[float]:
    """Random frames per CPU second of this process: the median over batches, which take turns among the caches."""
    random = np.random.default_rng(0)
    found: list[list[float]] = [[] for _ in caches]
    for _ in range(BATCHES):
        for cache, mine in zip(caches, found, strict=True):
            chosen = random.integers(len(cache), size=BATCH_SIZE).tolist()
            begun = time.process_time()
            for frame in chosen:
                cache[frame]
            mine.append(BATCH_SIZE / (time.process_time() - begun))
    return [float(np.median(mine)) for mine in found]


def main() -> None:
    """Print both caches' figures as JSON, one line each, and the memory of this process in MB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--frame_rate", type=float, default=5.0)
    options = parser.parse_args()
    frames = round(options.hours * 3600 * options.frame_rate)
    small, facts = opened(options.cache)
    with tempfile.TemporaryDirectory(dir=options.cache.parent) as folder:
        enlarge(small, Path(folder) / "large", options.videos, frames)
        large, more = opened(Path(folder) / "large")
        speeds = rates([small, large])
        names = ("as given", f"{options.videos} videos of {options.hours:g} h")
        for name, known, speed in zip(names, (facts, more), speeds, strict=True):
            print(json.dumps({"cache": name, **known, "frames_a_cpu_second": speed}))
        print(json.dumps({"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
