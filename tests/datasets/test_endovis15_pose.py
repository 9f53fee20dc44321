"""EndoVis'15 pose: foreign paths, unlabelled frames, missing ids, the optional joint."""

from __future__ import annotations

import json
from pathlib import Path

import miniatures
import numpy as np
import pytest

from laparoflow.datasets import build_dataset
from laparoflow.datasets.reading import DatasetError


def test_joints_instruments_and_visibility(tmp_path: Path) -> None:
    miniatures.endovis15_pose(tmp_path)
    dataset = build_dataset("endovis15_pose", tmp_path)
    assert dataset.joints == ("LeftClasper", "RightClasper", "Head", "Shaft", "End")
    sample = dataset[0]
    assert sample.video == "train1"
    assert sample.keypoints.shape == (2, 5, 3)
    assert sample.keypoints[0].tolist() == [[0, 5, 2], [0, 0, 0], [10, 5, 2], [0, 0, 0], [0, 0, 0]]
    assert sample.keypoints[1, 4].tolist() == [70, 40, 1]


def test_empty_annotations_mean_unlabelled(tmp_path: Path) -> None:
    miniatures.endovis15_pose(tmp_path)
    dataset = build_dataset("endovis15_pose", tmp_path)
    assert [frame.name for frame in dataset.frames] == ["train1_000001", "test5_000000"]


def test_a_frame_with_the_tracked_point_only_is_unlabelled(tmp_path: Path) -> None:
    miniatures.endovis15_pose(tmp_path)
    path = tmp_path / "train_labels" / "train1_labels.json"
    entries = json.loads(path.read_text())
    entries[0]["annotations"] = [{"class": "TrackedPoint", "id": "tool1", "x": 3, "y": 4}]
    path.write_text(json.dumps(entries))
    dataset = build_dataset("endovis15_pose", tmp_path)
    assert [frame.name for frame in dataset.frames] == ["train1_000001", "test5_000000"]
    asked = build_dataset("endovis15_pose", tmp_path, tracked_point=True)
    assert asked.frames[0].name == "train1_000000"
    assert asked.frames[0].label[0, 5].tolist() == [3, 4, 2]


def test_points_without_id_go_to_the_nearest_instrument_that_lacks_the_joint(tmp_path: Path) -> None:
    miniatures.endovis15_pose(tmp_path)
    points = build_dataset("endovis15_pose", tmp_path, "test")[0].keypoints
    assert points.shape == (2, 5, 3)
    assert points[0, 3].tolist() == [25, 20, 2]
    assert points[1, 3].tolist() == [66, 20, 2]
    assert points[1, 4].tolist() == [71, 20, 2]
    assert points[0, 4, 2] == 0


def test_frame_of_the_right_sequence_among_equal_names(tmp_path: Path) -> None:
    miniatures.endovis15_pose(tmp_path)
    assert (build_dataset("endovis15_pose", tmp_path, "test")[0].image == 5).all()


def test_equal_copies_are_ambiguous(tmp_path: Path) -> None:
    miniatures.endovis15_pose(tmp_path)
    source = tmp_path / "Testing" / "Dataset5" / "raw" / "img_0001.png"
    source.with_suffix(".jpg").write_bytes(source.read_bytes())
    with pytest.raises(DatasetError, match="fits several"):
        build_dataset("endovis15_pose", tmp_path)


def test_tracked_point_on_request(tmp_path: Path) -> None:
    miniatures.endovis15_pose(tmp_path)
    dataset = build_dataset("endovis15_pose", tmp_path, tracked_point=True)
    assert dataset.joints[-1] == "TrackedPoint"
    assert dataset[0].keypoints[0, 5].tolist() == [20, 5, 2]
    assert not np.any(dataset[1].keypoints[:, 5])


def test_missing_frames_are_reported_and_unknown_joints_named(tmp_path: Path) -> None:
    miniatures.endovis15_pose(tmp_path)
    (tmp_path / "Training" / "Dataset1" / "raw" / "img_000002.png").unlink()
    assert "1 labelled frames have no picture" in build_dataset("endovis15_pose", tmp_path).warnings[0]
    path = tmp_path / "test_labels" / "test5_labels.json"
    path.write_text(json.dumps(json.loads(path.read_text())).replace("ShaftPoint", "ElbowPoint"))
    with pytest.raises(DatasetError, match="ElbowPoint"):
        build_dataset("endovis15_pose", tmp_path)
