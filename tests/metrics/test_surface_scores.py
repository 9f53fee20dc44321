"""NSD and the SAR-RARP50 score against a brute-force reading of their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from laparoflow.metrics.sar_rarp50 import SarRarp50Score, frame_scores
from laparoflow.metrics.surface import SurfaceScores, surface_distance


def edge_pixels(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pixels of the mask of which some 4-neighbour is not in the mask, one by one."""
    height, width = mask.shape
    edges = []
    for y in range(height):
        for x in range(width):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [0 <= b < height and 0 <= a < width and mask[b, a] for b, a in around]
            if mask[y, x] and not all(inside):
                edges.append((y, x))
    return edges


def slow_nsd(prediction: np.ndarray, truth: np.ndarray, tau: float) -> float:
    """The challenge's convention: 1 where both are empty, 0 where one is."""
    first, second = edge_pixels(prediction), edge_pixels(truth)
    if not first and not second:
        return 1.0
    if not first or not second:
        return 0.0
    near = sum(min(math.dist(p, q) for q in second) <= tau for p in first)
    near += sum(min(math.dist(p, q) for q in first) <= tau for p in second)
    return near / (len(first) + len(second))


def slow_score(frames: list[tuple[np.ndarray | None, np.ndarray, str]]) -> float:
    """sqrt of the product of the means over videos of the means over frames of the means over classes."""
    videos: dict[str, list[tuple[float, float]]] = {}
    for prediction, truth, video in frames:
        iou, nsd = [], []
        for label in range(1, 10):
            if prediction is None:
                iou.append(0.0)
                nsd.append(0.0)
                continue
            p, t = prediction == label, truth == label
            iou.append(1.0 if not (p | t).any() else (p & t).sum() / (p | t).sum())
            nsd.append(slow_nsd(p, t, 10))
        videos.setdefault(video, []).append((float(np.mean(iou)), float(np.mean(nsd))))
    per_video = [np.mean(values, axis=0) for values in videos.values()]
    mean_iou, mean_nsd = np.mean(per_video, axis=0)
    return math.sqrt(mean_iou * mean_nsd)


def blobs(rng: np.random.Generator, size: tuple[int, int], classes: int) -> np.ndarray:
    mask = np.zeros(size, dtype=np.uint8)
    for _ in range(5):
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        h, w = rng.integers(1, 14, 2)
        mask[y : y + h, x : x + w] = rng.integers(0, classes)
    return mask


@pytest.mark.parametrize("seed", range(6))
def test_nsd_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, truth = (blobs(rng, (25, 31), 2) == 1 for _ in range(2))
    for tau in (0.0, 1.0, 1.5, 10.0):
        value = surface_distance(prediction, truth, tau)
        assert slow_nsd(prediction, truth, tau) == pytest.approx(1.0 if value is None else value, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_challenge_score_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    frames: list[tuple[np.ndarray | None, np.ndarray, str]] = []
    for index in range(7):
        prediction = None if index == 3 else blobs(rng, (30, 40), 10)
        frames.append((prediction, blobs(rng, (30, 40), 10 if index else 1), f"video_{index % 3}"))
    score = SarRarp50Score()
    for prediction, truth, video in frames:
        score.update(prediction, truth, video)
    assert score.compute()["score"] == pytest.approx(slow_score(frames), abs=1e-9)


def test_empty_frames_and_missing_predictions() -> None:
    empty = np.zeros((8, 8), dtype=np.uint8)
    assert frame_scores(empty, empty) == (1.0, 1.0)
    assert frame_scores(None, empty) == (0.0, 0.0)
    one = empty.copy()
    one[2:4, 2:4] = 3
    assert frame_scores(one, empty) == pytest.approx((8 / 9, 8 / 9))
    assert frame_scores(empty, one) == pytest.approx((8 / 9, 8 / 9))


def test_a_missing_frame_counts_in_its_own_video_only() -> None:
    empty = np.zeros((4, 4), dtype=np.uint8)
    score = SarRarp50Score()
    for _ in range(3):
        score.update(empty, empty, "video_1")
    score.update(None, empty, "video_2")
    assert score.compute()["mean_iou"] == 0.5
    assert score.compute()["per_video"]["video_2"] == {"mean_iou": 0.0, "mean_nsd": 0.0}


def test_ids_above_nine_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 9"):
        frame_scores(None, np.full((2, 2), 255))


def test_surface_scores_leave_out_absent_classes_and_ignored_pixels() -> None:
    truth = np.array([[0, 0, 0, 255], [0, 0, 0, 255]])
    prediction = np.array([[0, 0, 0, 1], [0, 0, 0, 1]])
    scores = SurfaceScores(("a", "b", "c"), 1.0)
    scores.update(prediction, truth, 255)
    assert scores.compute()["per_class_nsd"] == {"a": 1.0, "b": None, "c": None}
    assert scores.compute()["mean_nsd"] == 1.0


def test_wrong_arguments() -> None:
    mask = np.zeros((2, 3), dtype=bool)
    with pytest.raises(ValueError, match="one shape"):
        surface_distance(mask, mask.T, 1.0)
    with pytest.raises(ValueError, match="tolerance"):
        surface_distance(mask, mask, -1.0)
