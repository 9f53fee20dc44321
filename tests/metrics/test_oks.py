"""OKS average precision equals pycocotools' on random detections."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from laparoflow.metrics.oks import OksAveragePrecision

JOINTS = 4
SIGMAS = np.array([0.03, 0.06, 0.09, 0.12])


def random_pictures(seed: int, pictures: int = 12) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(pictures):
        truths = int(rng.integers(0, 4))
        truth = np.zeros((truths, JOINTS, 3))
        truth[..., :2] = rng.uniform(0, 100, (truths, 1, 2)) + rng.uniform(-15, 15, (truths, JOINTS, 2))
        truth[..., 2] = rng.choice([0, 1, 2], (truths, JOINTS), p=[0.3, 0.2, 0.5])
        if truths > 1 and rng.random() < 0.5:
            truth[0, :, 2] = 0
        near = truth[rng.integers(0, truths, int(rng.integers(0, 5)))] if truths else np.zeros((0, JOINTS, 3))
        noise = rng.normal(0, 1, near[..., :2].shape) * rng.choice([0.5, 3.0, 12.0], (len(near), 1, 1))
        strays = rng.uniform(0, 100, (int(rng.integers(0, 3)), JOINTS, 2))
        found = np.concatenate([near[..., :2] + noise, strays])
        low = truth[..., :2].min(1) if truths else np.zeros((0, 2))
        boxes = np.concatenate([low, truth[..., :2].max(1) - low], axis=1) if truths else np.zeros((0, 4))
        areas = boxes[:, 2] * boxes[:, 3] * 0.7
        result.append(
            {"truth": truth, "boxes": boxes, "areas": areas, "found": found, "scores": rng.uniform(0, 1, len(found))}
        )
    return result


def by_pycocotools(pictures: list[dict[str, np.ndarray]]) -> dict[str, float]:
    names = [f"joint{k}" for k in range(JOINTS)]
    content: dict[str, list] = {
        "images": [{"id": n + 1, "width": 100, "height": 100} for n in range(len(pictures))],
        "categories": [{"id": 1, "name": "tool", "keypoints": names, "skeleton": []}],
        "annotations": [],
    }
    detections = []
    for image, picture in enumerate(pictures, start=1):
        for points, box, area in zip(picture["truth"], picture["boxes"], picture["areas"], strict=True):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "iscrowd": 0,
                    "keypoints": points.flatten().tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                    "bbox": box.tolist(),
                    "area": float(area),
                }
            )
        for points, score in zip(picture["found"], picture["scores"], strict=True):
            flat = np.concatenate([points, np.ones((JOINTS, 1))], axis=1).flatten().tolist()
            detections.append({"image_id": image, "category_id": 1, "keypoints": flat, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "keypoints")
        evaluation.params.kpt_oks_sigmas = SIGMAS
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    return {
        "oks_ap": float(precision[..., 0, 0, 0].mean()),
        "oks_ap50": float(precision[0, :, 0, 0, 0].mean()),
        "oks_ap75": float(precision[5, :, 0, 0, 0].mean()),
        "oks_ar": float(recall[:, 0, 0, 0].mean()),
    }


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_pycocotools(seed: int) -> None:
    pictures = random_pictures(seed)
    metric = OksAveragePrecision(JOINTS, SIGMAS)
    for picture in pictures:
        metric.update(picture["found"], picture["scores"], picture["truth"], picture["areas"], picture["boxes"])
    expected = by_pycocotools(pictures)
    assert metric.compute() == pytest.approx(expected, abs=1e-9)
    assert 0 < expected["oks_ap"] < 1


def test_nothing_there_and_nothing_found() -> None:
    metric = OksAveragePrecision(2)
    metric.update(np.zeros((0, 2, 2)), np.zeros(0), np.zeros((0, 2, 3)))
    assert metric.compute()["oks_ap"] is None
    metric.update(np.zeros((0, 2, 2)), np.zeros(0), np.array([[[1.0, 1, 2], [2, 2, 2]]]))
    assert metric.compute()["oks_ap"] == 0.0


def test_sigmas_are_checked() -> None:
    with pytest.raises(ValueError, match="2 numbers"):
        OksAveragePrecision(2, [0.1])
