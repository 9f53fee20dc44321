"""Splits never mix what they promise to keep apart; budgets nest."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from laparoflow.datasets import (
    Frame,
    SegmentationDataset,
    SplitSettings,
    build_dataset,
    label_subset,
    split_dataset,
)


def frames(videos: int, each: int, parts: tuple[str, ...] = ("",)) -> SegmentationDataset:
    return SegmentationDataset(
        [
            Frame(Path(f"{v}_{t}.png"), None, f"v{v}", f"{v}_{t}", t, parts[v % len(parts)])
            for v in range(videos)
            for t in range(each)
        ]
    )


def videos_of(dataset: SegmentationDataset, indices: tuple[int, ...]) -> set[str]:
    return {dataset.frames[i].video for i in indices}


@pytest.mark.parametrize("seed", range(5))
def test_split_by_video_shares_no_video(seed: int) -> None:
    dataset = frames(5, 4)
    split = split_dataset(dataset, SplitSettings(seed=seed))
    assert split.by == "video"
    assert not split.warning
    assert not videos_of(dataset, split.train) & videos_of(dataset, split.test)
    assert len(split.train) + len(split.test) == len(dataset)
    assert len(videos_of(dataset, split.test)) == 2


def test_published_parts_come_first() -> None:
    dataset = frames(3, 2, ("train", "val", "test"))
    split = split_dataset(dataset)
    assert (split.by, split.train, split.val, split.test) == ("official", (0, 1), (2, 3), (4, 5))


def test_one_video_falls_back_to_time_with_a_gap_and_says_so() -> None:
    split = split_dataset(frames(1, 40))
    assert split.train == tuple(range(24))
    assert split.test == tuple(range(28, 40))
    assert "one video only" in split.warning
    assert split.record["by"] == "time"
    assert split.record["asked_for"] == "auto"
    assert split.record["gap_fraction"] == 0.1


def test_one_video_by_video_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="--split time"):
        split_dataset(frames(1, 40), SplitSettings(by="video"))


def test_time_split_is_in_time_order_within_every_video() -> None:
    dataset = frames(3, 10)
    shuffled = dataset.select([i * 7 % 30 for i in range(30)])
    split = split_dataset(shuffled, SplitSettings(by="time", test_fraction=0.2, gap_fraction=0.2))
    for video in shuffled.videos:
        train = [shuffled.frames[i].order for i in split.train if shuffled.frames[i].video == video]
        test = [shuffled.frames[i].order for i in split.test if shuffled.frames[i].video == video]
        assert (max(train), min(test)) == (5, 8)
    assert "both sides" in split.warning


def test_frame_split_only_by_name_and_with_a_warning() -> None:
    split = split_dataset(frames(4, 5), SplitSettings(by="frame"))
    assert "memory" in split.warning
    assert sorted(split.train + split.test) == list(range(20))


def test_named_videos() -> None:
    dataset = frames(5, 2)
    split = split_dataset(dataset, SplitSettings(test_videos=("v4",), train_videos=("v0", "v2")))
    assert videos_of(dataset, split.train) == {"v0", "v2"}
    assert videos_of(dataset, split.test) == {"v4"}
    with pytest.raises(ValueError, match="v9"):
        split_dataset(dataset, SplitSettings(test_videos=("v9",)))


def test_train_and_test_videos_may_not_leave_a_side_empty() -> None:
    with pytest.raises(ValueError, match="no frame to train"):
        split_dataset(frames(2, 2), SplitSettings(test_videos=("v1",), train_videos=("v1",)))


@pytest.mark.parametrize("seed", range(3))
def test_budgets_are_nested_and_seeds_differ(seed: int) -> None:
    sizes = [1, 5, 10, 0.22, 50, "all"]
    subsets = [label_subset(100, size, seed) for size in sizes]
    assert [len(subset) for subset in subsets] == [1, 5, 10, 22, 50, 100]
    for small, large in itertools.pairwise(subsets):
        assert set(small) < set(large)
        assert large[: len(small)] == small
    assert label_subset(100, 10, seed) != label_subset(100, 10, seed + 1)


@pytest.mark.parametrize("budget", [0, -1, 101, 1.5, -0.1])
def test_impossible_budgets(budget: float) -> None:
    with pytest.raises(ValueError, match=r"budget|labels"):
        label_subset(100, budget, 0)


@pytest.mark.parametrize("budget", ["some", True, None])
def test_budgets_of_another_type(budget: object) -> None:
    with pytest.raises(TypeError, match="labels"):
        label_subset(100, budget, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "coco"}, "dataset must be one of"),
        ({"task": "keypoints"}, "not for 'keypoints'"),
        ({"split": "dev"}, "split must be"),
        ({"colours": 3}, "no option colours"),
        ({"classes": 9}, "classes must be 8 or 13"),
    ],
)
def test_build_dataset_names_what_is_wrong(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_dataset(**({"name": "cholecseg8k", "root": tmp_path} | arguments))  # type: ignore[arg-type]
