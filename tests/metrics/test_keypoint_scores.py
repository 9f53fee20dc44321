"""Key-point scores on cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from laparoflow.metrics.keypoints import KeypointScores, matching_size

SIZE = (60, 80)  # diagonal 100


def points(*rows: tuple[float, float, float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def test_one_joint_by_hand() -> None:
    scores = KeypointScores(("tip",), 0.5)
    truth = np.array([[[10, 10, 2]], [[50, 50, 1]]], dtype=np.float32)
    scores.update([points((13, 14, 0.9), (50, 58, 0.8), (70, 10, 0.7))], truth, SIZE)
    result = scores.compute()
    assert result["points"] == result["points_located"] == 2
    assert result["rmse_px"] == pytest.approx(math.sqrt((25 + 64) / 2))
    assert result["pck"] == {"0.01": 0.0, "0.02": 0.0, "0.05": 0.5, "0.1": 1.0}
    assert result["precision"]["5"] == pytest.approx(1 / 3)
    assert result["precision"]["10"] == pytest.approx(2 / 3)
    assert result["recall"]["5"] == 0.5
    assert result["recall"]["10"] == 1.0
    assert result["f1"]["10"] == pytest.approx(0.8)


def test_unsure_detections_locate_but_do_not_count_as_detected() -> None:
    scores = KeypointScores(("tip",), 0.5)
    scores.update([points((10, 10, 0.1))], np.array([[[10, 10, 2]]], dtype=np.float32), SIZE)
    result = scores.compute()
    assert result["pck"]["0.01"] == 1.0
    assert result["recall"]["5"] == 0.0
    assert result["precision"]["5"] is None


def test_absent_joint_is_no_point_and_its_detection_is_false() -> None:
    scores = KeypointScores(("tip", "shaft"), 0.5)
    truth = np.array([[[10, 10, 2], [0, 0, 0]]], dtype=np.float32)
    scores.update([points((10, 10, 0.9)), points((1, 1, 0.9))], truth, SIZE)
    result = scores.compute()
    assert result["points"] == 1
    assert result["per_joint"]["shaft"]["precision"]["5"] == 0.0
    assert result["per_joint"]["shaft"]["recall"]["5"] is None
    assert result["precision"]["5"] == 0.5


def test_missed_point_lowers_pck_and_stays_out_of_rmse() -> None:
    scores = KeypointScores(("tip",), 0.5)
    truth = np.array([[[10, 10, 2]], [[50, 50, 2]]], dtype=np.float32)
    scores.update([points((10, 13, 0.9))], truth, SIZE)
    result = scores.compute()
    assert result["pck"]["0.1"] == 0.5
    assert result["rmse_px"] == 3.0
    assert result["points_located"] == 1


def test_matching_is_the_largest_not_the_greedy_one() -> None:
    found, there = np.array([[0.0, 0.0], [4.0, 0.0]]), np.array([[3.0, 0.0], [7.0, 0.0]])
    assert matching_size(found, there, 3.5) == 2


def test_empty_frame() -> None:
    scores = KeypointScores(("tip",), 0.5)
    scores.update([points()], np.zeros((0, 1, 3), dtype=np.float32), SIZE)
    result = scores.compute()
    assert result["rmse_px"] is None
    assert result["pck"]["0.1"] is None
    assert result["points"] == 0


def test_wrong_number_of_joints() -> None:
    with pytest.raises(ValueError, match="2 joints"):
        KeypointScores(("tip", "shaft")).update([points()], np.zeros((1, 2, 3)), SIZE)
