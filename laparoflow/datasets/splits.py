"""Splitting labelled frames, and choosing few of them.

Neighbouring frames of a video are nearly the same picture, so a score means something only when no video is on both
sides. The kinds of split, in the order in which "auto" tries them:

    official   the parts that the data set's authors (or its users) published; val is tested on where there is no test
    video      whole videos to either side
    time       within each video the end is the test part, and a gap before it belongs to neither
    frame      frames at random; only by name, since it measures memory and not generalisation

Where (nearly) every picture is the only one of its video, as in a flat folder, nothing is known about videos, and what
"auto" or "video" then makes is called by its name: a split by frame.

A label budget is a prefix of one random order per seed, so the subsets of one seed are nested.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from laparoflow.datasets.samples import FrameDataset
from laparoflow.datasets.settings import Budget, SplitSettings

LONE_SHARE = 0.9
"""Share of pictures that are alone in their video from which the videos count as unknown."""


@dataclass(frozen=True)
class Split:
    """Disjoint parts of a data set and how they came about.

    Attributes:
        train, test: indices of the frames to learn from and to score on.
        val: indices of the frames that a published split keeps for choosing settings; often empty, and empty where
            those are tested on for want of a published test part.
        by, warning: what keeps the parts apart, and what a reader of the scores must know about that, or "".
        record: counts, videos and settings as JSON values.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    by: str
    val: tuple[int, ...] = ()
    warning: str = ""
    record: dict[str, Any] = field(default_factory=dict)


def split_dataset(dataset: FrameDataset[Any], settings: SplitSettings | None = None) -> Split:
    """Divides the frames of a data set into train and test.

    Its `warning` is not empty when train and test share a video, or may do so unknown to the data set, and when the
    published val part is tested on (`record["test_part"]` then is "val"). A ValueError where the split that was asked for by
    name cannot be made, or a side would be empty.
    """
    settings = settings or SplitSettings()
    by, warning, test_part = str(settings.by), "", {}
    val: list[int] = []
    if by == "auto" and not settings.test_videos:
        by, warning = _choose(dataset, settings)
    if settings.test_videos:
        by = "video"
        _require_videos(dataset, settings.test_videos, "test_videos")
        train, test = _apart(dataset, settings.test_videos)
    elif by == "official":
        parts = ("train", "val", "test")
        train, val, test = ([i for i, frame in enumerate(dataset.frames) if frame.part == part] for part in parts)
        if train and val and not test:
            val, test, test_part = [], val, {"test_part": "val"}
            warning = f"{dataset.name} has parts train and val but no test, so val is tested on: choose no settings by it"
    elif by == "video":
        train, test = _by_video(dataset, settings)
        if _videos_are_unknown(dataset):  # whatever groups there are stay whole
            by = "frame"
    elif by == "time":
        train, test = _by_time(dataset, settings)
    else:
        train, test = _by_frame(dataset, settings)
    if settings.train_videos:
        _require_videos(dataset, settings.train_videos, "train_videos")
        train = [i for i in train if dataset.frames[i].video in settings.train_videos]
    for side, indices in (("train", train), ("test", test)):
        if not indices:
            raise ValueError(f"{dataset.name}: the split by {by} leaves no frame to {side} on ({len(dataset)} frames)")
    shared = {dataset.frames[i].video for i in train} & {dataset.frames[i].video for i in test}
    if by == "frame" and _videos_are_unknown(dataset):
        text = (
            f"split by frame: (nearly) every one of the {len(dataset)} pictures is the only one of its video, so, unless "
            "each is of another operation, the scores measure memory, not generalisation"
        )
        warning = "; ".join(filter(None, [text, dataset.video_hint]))
    elif shared and (not warning or by == "official"):
        say = "measure memory, not generalisation" if by == "frame" else "say nothing about other patients"
        text = f"split by {by}: {len(shared)} videos are on both sides, so the scores {say}"
        warning = "; ".join(filter(None, [warning, text]))
    record: dict[str, Any] = {"by": by, "asked_for": settings.by}
    record |= sides_record(dataset.select(train), dataset.select(test))
    if by == "time":
        record["gap_fraction"] = settings.gap_fraction
    if by in ("time", "frame", "video") and not settings.test_videos:
        record["test_fraction"] = settings.test_fraction
    if by in ("video", "frame"):
        record["seed"] = settings.seed
    return Split(tuple(train), tuple(test), by, tuple(val), warning, record | test_part)


def sides_record(train: FrameDataset[Any], test: FrameDataset[Any]) -> dict[str, Any]:
    """Number of frames and names of the videos of both sides, as JSON values."""
    sides = {"train": train, "test": test}
    counts = {f"{side}_frames": len(part) for side, part in sides.items()}
    return counts | {f"{side}_videos": sorted(part.videos) for side, part in sides.items()}


def label_subset(available: int, budget: Budget, seed: int) -> tuple[int, ...]:
    """Positions of the labelled frames of one budget among those available: a prefix of one random order per seed."""
    count = budget_count(available, budget)
    return tuple(int(i) for i in np.random.default_rng(seed).permutation(available)[:count])


def budget_count(available: int, budget: Budget, argument: str = "labels") -> int:
    """Frames that a budget means: a whole number, a fraction in (0, 1] written with a point (1.0 is all), or "all".

    Errors name the `argument` that it came by.
    """
    if budget == "all":
        return available
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise TypeError(f'{argument} must be a count, a fraction in (0, 1] or "all", got {budget!r}')
    if isinstance(budget, float) and (budget <= 1 or not budget.is_integer()):
        if not 0 < budget <= 1:
            raise ValueError(f"{argument}: a fractional label budget must lie in (0, 1], got {budget}")
        return max(1, round(budget * available))
    if budget < 1:
        raise ValueError(f"{argument}: a label budget must be at least 1, got {budget}")
    if budget > available:
        raise ValueError(f"{argument} asks for {int(budget)} frames, the training part has {available}; use fewer, or all")
    return int(budget)


def _choose(dataset: FrameDataset[Any], settings: SplitSettings) -> tuple[str, str]:
    parts = {frame.part for frame in dataset.frames}
    if "train" in parts and parts & {"val", "test"}:
        return "official", ""
    if len(dataset.videos) >= 2:
        return "video", ""
    return "time", (
        f"{dataset.name} has one video only ({dataset.videos[0]}), so it is split in time with a gap of "
        f"{settings.gap_fraction:.0%} of its frames: the scores say nothing about other patients"
    )


def _videos_are_unknown(dataset: FrameDataset[Any]) -> bool:
    frames_of = Counter(frame.video for frame in dataset.frames)
    alone = sum(1 for count in frames_of.values() if count == 1)
    return len(frames_of) > 1 and alone >= LONE_SHARE * len(dataset)


def _by_video(dataset: FrameDataset[Any], settings: SplitSettings) -> tuple[list[int], list[int]]:
    videos = dataset.videos
    if len(videos) < 2:
        raise ValueError(
            f"{dataset.name}: a split by video needs at least two videos, {list(videos)} is all there is; "
            "ask for --split time to divide it in time, with a gap"
        )
    count = min(len(videos) - 1, max(1, math.ceil(settings.test_fraction * len(videos))))
    order = np.random.default_rng(settings.seed).permutation(len(videos))
    return _apart(dataset, {videos[i] for i in order[:count]})


def _apart(dataset: FrameDataset[Any], tested: Container[str]) -> tuple[list[int], list[int]]:
    """Frames of the other videos, and of the tested ones."""
    sides: tuple[list[int], list[int]] = ([], [])
    for i, frame in enumerate(dataset.frames):
        sides[frame.video in tested].append(i)
    return sides


def _by_time(dataset: FrameDataset[Any], settings: SplitSettings) -> tuple[list[int], list[int]]:
    train: list[int] = []
    test: list[int] = []
    for video in dataset.videos:
        own = (i for i, frame in enumerate(dataset.frames) if frame.video == video)
        indices = sorted(own, key=lambda i: dataset.frames[i].order)
        tested = math.ceil(settings.test_fraction * len(indices))
        gap = math.ceil(settings.gap_fraction * len(indices))
        test += indices[len(indices) - tested :]
        train += indices[: max(0, len(indices) - tested - gap)]
    return train, test


def _by_frame(dataset: FrameDataset[Any], settings: SplitSettings) -> tuple[list[int], list[int]]:
    order = [int(i) for i in np.random.default_rng(settings.seed).permutation(len(dataset))]
    tested = math.ceil(settings.test_fraction * len(order))
    return sorted(order[tested:]), sorted(order[:tested])


def _require_videos(dataset: FrameDataset[Any], names: Sequence[str], argument: str) -> None:
    unknown = sorted(set(names) - set(dataset.videos))
    if unknown:
        raise ValueError(f"{argument}: {dataset.name} has no video {unknown}; it has {list(dataset.videos)}")
