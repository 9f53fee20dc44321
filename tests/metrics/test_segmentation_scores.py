"""Segmentation scores against torchmetrics, and the rules for ignored pixels and absent classes."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from laparoflow.datasets.samples import IGNORE_INDEX
from laparoflow.metrics.segmentation import SegmentationScores

CLASSES = ("a", "b", "c", "d")


def random_frames(seed: int, count: int = 6) -> list[tuple[torch.Tensor, torch.Tensor, str]]:
    generator = torch.Generator().manual_seed(seed)
    frames = []
    for index in range(count):
        truth = torch.randint(0, 4, (9, 7), generator=generator)
        truth[torch.rand(9, 7, generator=generator) < 0.2] = IGNORE_INDEX
        frames.append((torch.randint(0, 4, (9, 7), generator=generator), truth, f"v{index % 3}"))
    return frames


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_torchmetrics(seed: int) -> None:
    frames = random_frames(seed)
    scores = SegmentationScores(CLASSES)
    options = {"num_classes": 4, "ignore_index": IGNORE_INDEX}
    iou = MulticlassJaccardIndex(average=None, **options)
    dice, accuracy = (
        MulticlassF1Score(average=None, **options),
        MulticlassAccuracy(average="micro", **options),
    )
    for prediction, truth, video in frames:
        scores.update(prediction, truth, video)
        for metric in (iou, dice, accuracy):
            metric.update(prediction.flatten(), truth.flatten())
    result = scores.compute()
    assert torch.allclose(torch.tensor(list(result["per_class_iou"].values())), iou.compute(), atol=1e-6)
    assert torch.allclose(torch.tensor(list(result["per_class_dice"].values())), dice.compute(), atol=1e-6)
    assert result["pixel_accuracy"] == pytest.approx(float(accuracy.compute()), abs=1e-6)
    assert result["mean_iou"] == pytest.approx(float(iou.compute().mean()), abs=1e-6)


def test_absent_class_is_left_out_and_a_false_one_scores_zero() -> None:
    scores = SegmentationScores(CLASSES)
    truth = torch.tensor([[0, 0, 1, 1]])
    scores.update(torch.tensor([[0, 0, 1, 2]]), truth, "v")
    result = scores.compute()
    assert result["per_class_iou"] == {"a": 1.0, "b": 0.5, "c": 0.0, "d": None}
    assert result["mean_iou"] == pytest.approx(0.5)


def test_ignored_pixels_count_nowhere() -> None:
    scores = SegmentationScores(CLASSES)
    scores.update(torch.tensor([[3, 0]]), torch.tensor([[IGNORE_INDEX, 0]]), "v")
    result = scores.compute()
    assert result["per_class_iou"] == {"a": 1.0, "b": None, "c": None, "d": None}
    assert result["pixel_accuracy"] == 1.0


def test_all_ignored_gives_none_not_nan() -> None:
    scores = SegmentationScores(CLASSES)
    scores.update(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), IGNORE_INDEX), "v")
    result = scores.compute()
    assert result["mean_iou"] is None
    assert result["pixel_accuracy"] is None


def test_mean_over_videos_weighs_videos_equally() -> None:
    scores = SegmentationScores(CLASSES)
    for _ in range(9):
        scores.update(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64), "long")
    scores.update(torch.ones(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64), "short")
    result = scores.compute()
    assert result["per_video"] == {"long": 1.0, "short": 0.0}
    assert result["mean_iou_over_videos"] == 0.5
    assert result["per_class_iou"]["a"] == pytest.approx(0.9)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        SegmentationScores(CLASSES).update(torch.zeros(2, 2), torch.zeros(2, 3), "v")
