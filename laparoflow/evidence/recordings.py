"""Labelled recordings and unlabelled pools of the scene "real".

    root/endovis15_robotic, endovis15_rigid     recordings with masks of background, shaft and head
    root/*                                      every other folder: unlabelled videos, or folders of frames

A task takes labels from one recording and scores on another of its set, both ways; recordings that have a *_labels.json
beside their video are scored on key points, too. Three pools to pretrain on:

    unseen           the unlabelled folders, none of the labelled recordings
    same procedure   the labelled recording of the task alone
    seen             all recordings of the robotic set, among them the tested one, without their labels

The rigid set has no video, so its tasks are scored with the pool "unseen" alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from laparoflow.datasets.endovis15 import Endovis15Rigid, Endovis15Robotic, Endovis15RoboticPose
from laparoflow.datasets.samples import KeypointDataset, SegmentationDataset
from laparoflow.probes.features import to_input
from laparoflow.video.settings import PrepareSettings

SIZE = (144, 192)
"""Height and width of all frames, labelled or not."""
PREPARE = PrepareSettings(
    height=SIZE[0], width=SIZE[1], frame_rate=5.0, image_rate=5.0, gaps=(-4, -2, 2, 4), gap_choice="stack", min_motion=0.0,
    dis_preset="fine", consistency_relative=0.02, consistency_absolute=0.75,
)  # fmt: skip
MOST_LABELLED, MOST_TESTED, TRACKED_EVERY = 40, 24, 15
"""Frames of a recording to draw labels from and to score on, evenly spread; steps of label propagation in frames."""
SETS: dict[str, tuple[str, Callable[[Path], SegmentationDataset]]] = {
    "robotic": ("endovis15_robotic", Endovis15Robotic),
    "rigid": ("endovis15_rigid", Endovis15Rigid),
}


@dataclass(frozen=True)
class Recording:
    """One labelled recording at `SIZE`.

    Attributes:
        name: set and recording.
        video: its video file, None for stills.
        images: RGB 0..1 [n, 3, H, W], in time order.
        masks: class ids int64 [n, H, W].
        classes: their names.
        labelled, tested, tracked: positions of the frames for each use; no `tracked` for stills.
        points: frames with key points to draw labels from, and to score on; None where there are none.
    """

    name: str
    video: Path | None
    images: Tensor
    masks: Tensor
    classes: tuple[str, ...]
    labelled: Sequence[int]
    tested: Sequence[int]
    tracked: Sequence[int]
    points: tuple[KeypointDataset, KeypointDataset] | None = None


@dataclass(frozen=True)
class Pool:
    """Videos to pretrain on and what is scored with them.

    Attributes:
        name: of the pool, as tables show it.
        part: name of the arena: the pool's, or for "same procedure" with the recording's.
        sources: videos or folders.
        tasks: (labelled recording, tested recording) by name.
    """

    name: str
    part: str
    sources: list[Path]
    tasks: dict[str, tuple[Recording, Recording]]


def read_recordings(root: Path) -> dict[str, list[Recording]]:
    """The labelled recordings by set; every frame that is used is read once.

    Raises:
        DatasetError: a set's folder is missing or holds no recording.
    """
    found: dict[str, list[Recording]] = {}
    for name, (folder, reader) in SETS.items():
        dataset = reader(root / folder)
        for video in dataset.videos:
            positions = [i for i, frame in enumerate(dataset.frames) if frame.video == video]
            found.setdefault(name, []).append(_read(name, dataset.select(positions), video))
    robotic = root / SETS["robotic"][0]
    if any(robotic.rglob("*_labels.json")):
        points = Endovis15RoboticPose(robotic)
        found["robotic"] = [replace(recording, points=_points(points, recording)) for recording in found["robotic"]]
    return found


def _points(dataset: KeypointDataset, recording: Recording) -> tuple[KeypointDataset, KeypointDataset] | None:
    """Frames to draw labels from and to score on; None for a recording without key points."""
    positions = [i for i, frame in enumerate(dataset.frames) if f"robotic {frame.video}" == recording.name]
    if not positions:
        return None
    labelled, tested = (
        dataset.select([positions[i] for i in _evenly(len(positions), most)]) for most in (MOST_LABELLED, MOST_TESTED)
    )
    return labelled, tested


def _read(name: str, dataset: SegmentationDataset, video: str) -> Recording:
    count = len(dataset)
    moving = name == "robotic"
    labelled, tested = _evenly(count, MOST_LABELLED), _evenly(count, MOST_TESTED if moving else MOST_LABELLED)
    tracked = list(range(0, count, TRACKED_EVERY)) if moving else []
    used = sorted({*labelled, *tested, *tracked})
    images, masks = [], []
    for sample in dataset.select(used):
        images.append(to_input(sample.image, SIZE))
        masks.append(torch.from_numpy(cv2.resize(sample.mask.astype(np.uint8), SIZE[::-1], interpolation=cv2.INTER_NEAREST)))
    place = {position: i for i, position in enumerate(used)}
    file = dataset.frames[0].image if moving else None
    labelled, tested, tracked = ([place[i] for i in part] for part in (labelled, tested, tracked))
    maps = torch.stack(masks).long()
    return Recording(f"{name} {video}", file, torch.stack(images), maps, dataset.classes, labelled, tested, tracked)


def _evenly(count: int, most: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most))})


def pools(root: Path, names: Sequence[str], recordings: dict[str, list[Recording]]) -> list[Pool]:
    """The pools of these names.

    Raises:
        ValueError: no unlabelled folder below `root` for the pool "unseen".
    """
    labelled = {folder for folder, _ in SETS.values()}
    unlabelled = sorted(path for path in root.iterdir() if path.is_dir() and path.name not in labelled)
    if "unseen" in names and not unlabelled:
        raise ValueError(f"real_root: {root} has no folder of unlabelled video beside {', '.join(sorted(labelled))}")
    tasks = {
        f"{first.name} to {second.name.split()[-1]}": (first, second)
        for group in recordings.values()
        for first, second in permutations(group, 2)
    }
    moving = {name: pair for name, pair in tasks.items() if pair[0].video is not None}
    found = []
    for name in names:
        if name == "unseen":
            found.append(Pool(name, name, unlabelled, tasks))
        elif name == "seen":
            found.append(Pool(name, name, [r.video for r in recordings["robotic"] if r.video is not None], moving))
        else:
            for first in (recording for recording in recordings["robotic"] if recording.video is not None):
                own = {task: pair for task, pair in moving.items() if pair[0] is first}
                found.append(Pool(name, f"{name} {first.name.split()[-1]}", [first.video], own))  # type: ignore[list-item]
    return found


def altered(images: Tensor, masks: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The test frames as they are, mirrored, cropped off-centre to 70 % of each side, and in another light."""
    size = images.shape[2:]
    part = ..., slice(round(0.7 * size[0])), slice(-round(0.7 * size[1]), None)
    cropped = F.interpolate(images[part], size=size, mode="bilinear", align_corners=False)
    labels = F.interpolate(masks[part][:, None].float(), size=size, mode="nearest-exact")
    gains = torch.tensor([1.25, 0.9, 0.75]).view(1, 3, 1, 1)
    return {
        "plain": (images, masks),
        "mirrored": (images.flip(3), masks.flip(2)),
        "cropped": (cropped, labels[:, 0].long()),
        "recoloured": ((images * gains).clamp(0, 1), masks),
    }
