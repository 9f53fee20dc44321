"""Options of a split, and what a label budget may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

SplitBy = Literal["auto", "official", "video", "time", "frame"]
Budget = int | float | Literal["all"]


@dataclass(frozen=True)
class SplitSettings:
    """How to divide a data set.

    Args:
        by: the kind of split; "auto" takes official, else video, else (one video only) time, and says so. Of pictures
            without known videos "auto" and "video" make a split by frame.
        test_fraction: share of the videos, of each video's frames, or of all frames that is tested on.
        gap_fraction: for "time", the share of each video's frames between the two sides that is left out.
        test_videos: these videos are the test part, whatever `by` says, and every other one trains.
        train_videos: only these videos train (for few-label protocols by video).
        seed: for "video" and "frame", which ones are drawn.
    """

    by: SplitBy = "auto"
    test_fraction: float = 0.3
    gap_fraction: float = 0.1
    test_videos: tuple[str, ...] = ()
    train_videos: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in get_args(SplitBy):
            raise ValueError(f"split must be one of {', '.join(get_args(SplitBy))}, got {self.by!r}")
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"test_fraction must lie between 0 and 1, got {self.test_fraction}")
        if not 0 <= self.gap_fraction < 1 - self.test_fraction:
            raise ValueError(
                f"gap_fraction must lie in [0, 1 - test_fraction = {1 - self.test_fraction:g}), got {self.gap_fraction}"
            )
