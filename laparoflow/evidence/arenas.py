"""Where methods are compared: frames to pretrain on, and labelled frames to probe with.

default, held_out   the synthetic laparoscopy with the parameters of that name: some clips to pretrain on and to draw
                    labels from, other clips to score on
real                labelled recordings and unlabelled pools, see recordings.py; one arena a pool
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laparoflow.datasets.registry import build_dataset
from laparoflow.datasets.splits import SplitSettings, split_dataset
from laparoflow.evidence import recordings
from laparoflow.evidence.recordings import Pool
from laparoflow.evidence.settings import EvidenceSettings
from laparoflow.synthetic import DEFAULT, HELD_OUT, write_dataset
from laparoflow.video.prepare import prepare
from laparoflow.video.settings import PrepareSettings

SYNTHETIC_PREPARE = PrepareSettings(short_side=None, frame_rate=None, crop_border=False, gaps=(2,), dis_preset="fine")
"""Frames as they are; flow over two frames, down to single pixels, where it separates what moves apart best."""
SYNTHETIC_DONE = "dataset.json"


@dataclass
class Arena:
    """One place of comparison.

    Attributes:
        name: of the scene.
        cache: frames and flow to pretrain on.
        tasks: task -> (frames to label, frames to score on).
        pool: of the scene "real"; its tasks are scored by `transfer.py`.
    """

    name: str
    cache: Path
    tasks: Mapping[str, tuple[Any, Any]]
    pool: Pool | None = None


def build_arenas(scene: str, settings: EvidenceSettings) -> list[Arena]:
    """Makes what the scene needs below `settings.out`, or finds it there from an earlier run."""
    folder = settings.out / scene
    folder.mkdir(parents=True, exist_ok=True)
    return _real(folder, settings) if scene == "real" else [_synthetic(scene, folder, settings)]


def _synthetic(scene: str, folder: Path, settings: EvidenceSettings) -> Arena:
    root = folder / "synthetic"
    clips = settings.pretrain_clips + settings.test_clips
    if not (root / SYNTHETIC_DONE).is_file():
        parameters = DEFAULT if scene == "default" else HELD_OUT
        write_dataset(root, parameters, clips, settings.frames, 0, flow=False)
    names = [f"clip_{number:03d}" for number in range(clips)]
    seen, unseen = names[: settings.pretrain_clips], names[settings.pretrain_clips :]
    videos = [root / "videos" / f"{name}.mp4" for name in seen]
    prepare(videos, folder / "cache", SYNTHETIC_PREPARE)
    tasks = {}
    for task in ("segmentation", "keypoints"):
        dataset = build_dataset("synthetic", root, task=task)  # type: ignore[arg-type]
        split = split_dataset(dataset, SplitSettings(train_videos=tuple(seen), test_videos=tuple(unseen)))
        test = dataset.select(split.test[:: settings.test_every])
        tasks[task] = (dataset.select(split.train), test)
    return Arena(scene, folder / "cache", tasks)


def _real(folder: Path, settings: EvidenceSettings) -> list[Arena]:
    assert settings.real_root is not None
    arenas = []
    for pool in recordings.pools(settings.real_root, settings.pools, recordings.read_recordings(settings.real_root)):
        cache = folder / pool.part.replace(" ", "_") / "cache"
        prepare(pool.sources, cache, recordings.PREPARE)
        arenas.append(Arena(pool.part, cache, {}, pool=pool))
    return arenas
