"""Splits never mix what they promise to keep apart; budgets nest."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from laparoflow.datasets import build_dataset
from laparoflow.datasets.samples import Frame, SegmentationDataset
from laparoflow.datasets.settings import SplitBy, SplitSettings
from laparoflow.datasets.splits import budget_count, label_subset, split_dataset


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


@pytest.mark.parametrize("by", ["auto", "official"])
def test_published_val_is_tested_on_where_there_is_no_test_part(by: SplitBy) -> None:
    dataset = frames(4, 3, ("train", "val"))
    split = split_dataset(dataset, SplitSettings(by=by))
    assert (split.by, split.record["test_part"]) == ("official", "val")
    assert {dataset.frames[i].part for i in split.train} == {"train"}
    assert {dataset.frames[i].part for i in split.test} == {"val"}
    assert not split.val
    assert len(split.train) + len(split.test) == 12
    assert "val is tested on" in split.warning
    assert "test_part" not in split_dataset(frames(3, 2, ("train", "val", "test"))).record


def test_val_as_test_part_does_not_hide_shared_videos() -> None:
    parts = [Frame(Path(f"{t}.png"), None, "v0", str(t), t, "train" if t < 3 else "val") for t in range(6)]
    warning = split_dataset(SegmentationDataset(parts)).warning
    assert "val is tested on" in warning
    assert "1 videos are on both sides" in warning


@pytest.mark.parametrize("by", ["auto", "video", "frame"])
def test_pictures_without_known_videos_are_split_by_frame_with_a_warning(by: SplitBy) -> None:
    split = split_dataset(frames(20, 1), SplitSettings(by=by))
    assert (split.by, split.record["by"], split.record["asked_for"]) == ("frame", "frame", by)
    assert "memory" in split.warning
    assert (len(split.train), len(split.test)) == (14, 6)


def test_the_few_videos_among_single_pictures_stay_whole() -> None:
    lone = list(frames(45, 1).frames)
    video = [Frame(Path(f"{t}.png"), None, "w", f"w_{t}", t) for t in range(5)]
    dataset = SegmentationDataset(lone + video)
    for seed in range(8):
        split = split_dataset(dataset, SplitSettings(seed=seed))
        assert split.by == "frame"
        assert len({i in split.test for i in range(45, 50)}) == 1
    assert split_dataset(SegmentationDataset(lone[:40] + video)).by == "video"


def test_named_test_videos_need_no_warning_about_unknown_ones() -> None:
    split = split_dataset(frames(20, 1), SplitSettings(test_videos=("v3",)))
    assert (split.by, len(split.test), split.warning) == ("video", 1, "")


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


def test_fractions_have_a_point_and_whole_numbers_are_counts() -> None:
    assert [budget_count(24, budget) for budget in (0.25, 0.5, 1.0, 1, 22.0, 24, "all")] == [6, 12, 24, 1, 22, 24, 24]


@pytest.mark.parametrize("budget", [0, 0.0, -1, -1.0, 101, 1.5, -0.1])
def test_impossible_budgets(budget: float) -> None:
    with pytest.raises(ValueError, match=r"budget|labels"):
        label_subset(100, budget, 0)


def test_budget_errors_name_the_setting_that_holds_it() -> None:
    for budget in (0, 101, 1.5):
        with pytest.raises(ValueError, match="scratch_labels"):
            budget_count(100, budget, "scratch_labels")


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
