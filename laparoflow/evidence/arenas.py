"""Where methods are compared: frames to pretrain on, and labelled frames to probe with.

default, held_out   the synthetic laparoscopy with the parameters of that name: some clips to pretrain on and to draw
                    labels from, other clips to score on
real                a laparoscopic clip, unlabelled CholecSeg8k frames and unlabelled Sznitman frames to pretrain on;
                    probes on the two labelled sets, each split in time with a gap. Frames of the test parts are kept
                    out of pretraining. One patient each: this says nothing about generalisation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laparoflow.datasets.registry import build_dataset
from laparoflow.datasets.samples import FrameDataset
from laparoflow.datasets.splits import SplitSettings, split_dataset
from laparoflow.evidence.settings import EvidenceSettings
from laparoflow.synthetic import DEFAULT, HELD_OUT, write_dataset
from laparoflow.video.prepare import prepare
from laparoflow.video.settings import PrepareSettings

REAL_PREPARE = PrepareSettings(short_side=144, frame_rate=None, gaps=(2, 4), dis_preset="fine")
"""From two frames on every frame of the three sources moves; the size is near that of the synthetic frames."""
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
        notes: what a reader of the scores must know.
    """

    name: str
    cache: Path
    tasks: Mapping[str, tuple[Any, Any]]
    notes: list[str] = field(default_factory=list)


def build_arena(scene: str, settings: EvidenceSettings) -> Arena:
    """Makes what the scene needs below `settings.out`, or finds it there from an earlier run."""
    folder = settings.out / scene
    folder.mkdir(parents=True, exist_ok=True)
    return _real(folder, settings) if scene == "real" else _synthetic(scene, folder, settings)


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


def _real(folder: Path, settings: EvidenceSettings) -> Arena:
    assert settings.real_root is not None
    tasks: dict[str, tuple[Any, Any]] = {}
    notes, sources = [], [settings.real_root / "video"]
    for task, name, below in (
        ("segmentation", "cholecseg8k", "cholecseg8k"),
        ("keypoints", "sznitman", "sznitman_laparoscopy"),
    ):
        dataset = build_dataset(name, settings.real_root / below)
        split = split_dataset(dataset, SplitSettings(by="time"))
        tasks[task] = (dataset.select(split.train), dataset.select(split.test))
        notes.append(f"{name}: {split.warning}")
        tested = set(split.test)
        unlabelled = dataset.select([i for i in range(len(dataset)) if i not in tested])
        sources.append(_link_frames(unlabelled, folder / "frames" / name))
    notes.append("one patient each: the scores say nothing about generalisation")
    prepare(sources, folder / "cache", REAL_PREPARE)
    return Arena("real", folder / "cache", tasks, notes)


def _link_frames(dataset: FrameDataset[Any], folder: Path) -> Path:
    """A folder of links to the pictures in time order, so that labels beside them are not taken for frames."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(sorted(dataset.frames, key=lambda frame: frame.order)):
        link = folder / f"{number:06d}{frame.image.suffix}"
        if not link.is_symlink():
            os.symlink(frame.image.resolve(), link)
    return folder
