"""Object key-point similarity (OKS) and its average precision, by COCO's own program (pycocotools).

    OKS(detection, truth) = mean over the truth's labelled joints of exp(-d_k^2 / (2 area (2 sigma_k)^2))

At most 20 detections of a picture count. AP is the mean precision at 101 recalls and the thresholds 0.50, 0.55, ..., 0.95.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

DEFAULT_SIGMA = 0.05


class OksAveragePrecision:
    """Accumulates pictures and gives AP, AP50, AP75 and AR.

    ``sigmas`` are the falloff of each joint, in units of the square root of the area; None takes 0.05 for all.
    """

    def __init__(self, joints: int, sigmas: Sequence[float] | None = None) -> None:
        self.sigmas = np.full(joints, DEFAULT_SIGMA) if sigmas is None else np.asarray(sigmas, dtype=np.float64)
        if self.sigmas.shape != (joints,) or (self.sigmas <= 0).any():
            raise ValueError(f"sigmas must be {joints} numbers above 0, got {sigmas}")
        self._pictures = 0
        self._truths: list[dict[str, Any]] = []
        self._detections: list[dict[str, Any]] = []

    def update(
        self,
        detections: NDArray[np.floating],
        scores: NDArray[np.floating],
        truth: NDArray[np.floating],
        areas: NDArray[np.floating] | None = None,
        boxes: NDArray[np.floating] | None = None,
    ) -> None:
        """Counts one picture: detections [P, K, 2 or 3] with scores [P], and the truth [I, K, 3] (x, y, visibility).

        Areas [I] are in square pixels, boxes [I, 4] are (x, y, width, height); None takes those around the labelled joints.
        """
        self._pictures += 1
        same = {"image_id": self._pictures, "category_id": 1, "iscrowd": 0}
        boxes = joint_boxes(truth) if boxes is None else boxes
        areas = boxes[:, 2] * boxes[:, 3] if areas is None else areas
        for points, box, area in zip(truth.astype(np.float64), boxes, areas, strict=True):
            labelled = int((points[:, 2] > 0).sum())
            facts = {"bbox": list(map(float, box)), "area": float(area), "num_keypoints": labelled}
            self._truths.append({**same, **facts, "id": len(self._truths) + 1, "keypoints": points.ravel().tolist()})
        for points, score in zip(np.asarray(detections, dtype=np.float64), scores, strict=True):
            flat = np.insert(points[:, :2], 2, 1.0, axis=1).ravel().tolist()
            found = {"id": len(self._detections) + 1, "score": float(score), "area": 1.0, "keypoints": flat}
            self._detections.append({**same, **found})

    def compute(self) -> dict[str, Any]:
        """ap, ap50, ap75 and ar as JSON values; None where no truth counts."""
        if not any(truth["num_keypoints"] for truth in self._truths):
            return {"oks_ap": None, "oks_ap50": None, "oks_ap75": None, "oks_ar": None}
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._set(self._truths), self._set(self._detections), "keypoints")
            evaluation.params.kpt_oks_sigmas = self.sigmas
            evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"][..., 0, 0, 0].mean(1)
        return {
            "oks_ap": float(precision.mean()),
            "oks_ap50": float(precision[0]),
            "oks_ap75": float(precision[5]),
            "oks_ar": float(evaluation.eval["recall"].mean()),
        }

    def _set(self, annotations: list[dict[str, Any]]) -> COCO:
        content = COCO()
        content.dataset = {
            "images": [{"id": picture + 1} for picture in range(self._pictures)],
            "categories": [{"id": 1, "name": "instrument"}],
            "annotations": [dict(annotation) for annotation in annotations],
        }
        content.createIndex()
        return content


def joint_boxes(truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Boxes [I, 4] (x, y, width, height) around the labelled joints, at least one pixel wide and high."""
    boxes = np.zeros((len(truth), 4))
    for row, points in enumerate(truth):
        seen = points[points[:, 2] > 0, :2]
        if len(seen):
            low = seen.min(0)
            boxes[row] = [*low, *np.maximum(seen.max(0) - low, 1.0)]
    return boxes
