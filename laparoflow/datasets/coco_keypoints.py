"""Key points in COCO's format; see coco.py for the files.

Each annotation is one instrument: `keypoints` is [x1, y1, v1, x2, ...] with v 0 not labelled, 1 labelled but hidden,
2 visible. Joint names come from the category. A picture without annotations is labelled and empty, as in COCO; crowds
and annotations with `num_keypoints` 0 are left out. A point that lies outside its picture counts as not labelled and is
reported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from laparoflow.datasets import coco
from laparoflow.datasets.coco import annotation_files, called, coco_frames, field, listed, numbers, outside, read_coco
from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.samples import Frame, KeypointDataset, KeypointSample


class CocoKeypoints(KeypointDataset):
    """Reads COCO-style key points of one category, by name or the only one with key points, from a folder as in coco.py.

    The annotation file may be named, absolute or below root; None takes those with keypoints in the name, if any.
    """

    name = "coco_keypoints"
    video_hint = "give each image of the annotation file its `video`"

    def __init__(self, root: Path, annotations: str | None = None, category: str | None = None) -> None:
        root = self.folder(root)
        files = annotation_files(root, annotations, "*keypoints*.json", self.name)
        self.joints = ()
        self._outside: dict[str, None] = {}
        frames: list[Frame] = []
        for path in files:
            content = read_coco(path)
            chosen = _category(content, category, path)
            joints = tuple(str(name) for name in chosen["keypoints"])
            if self.joints not in ((), joints):
                raise DatasetError(f"{path} has joints {joints}, the other files have {self.joints}")
            self.joints = joints
            labelled = []
            for annotation in content["annotations"]:
                if str(annotation["category_id"]) != str(chosen["id"]) or annotation.get("iscrowd"):
                    continue
                what = f"{path}: {called(annotation)}"
                values = numbers(field(annotation, "keypoints", what), f"{what}: keypoints")
                if values.size != 3 * len(joints):
                    raise DatasetError(f"{what} has {values.size} numbers, not {3 * len(joints)}")
                if annotation.get("num_keypoints", 1):
                    labelled.append(annotation)
            frames += coco_frames(content | {"annotations": labelled}, root, path, len(files) > 1)
        super().__init__(sorted(frames, key=lambda frame: (frame.video, frame.order, frame.name)))

    def findings(self) -> list[str]:
        return listed(self._outside, "key points lie outside their pictures and count as not labelled")

    def read(self, frame: Frame) -> KeypointSample:
        image = coco.read_picture(frame)
        rows = [annotation["keypoints"] for annotation in frame.label.annotations]
        points = np.array(rows, np.float32).reshape(-1, len(self.joints), 3)
        astray = outside(points[..., :2], image.shape) & (points[..., 2] > 0)
        for row, joint in zip(*np.nonzero(astray), strict=True):
            x, y = points[row, joint, :2].tolist()
            place = f"{called(frame.label.annotations[row])}, {self.joints[joint]} at ({x:g}, {y:g})"
            self._outside[f"{frame.image.name} ({image.shape[1]} x {image.shape[0]}), {place}"] = None
        points[astray] = 0
        return KeypointSample(image, points, frame.video, frame.name)


def _category(content: dict[str, Any], name: str | None, path: Path) -> dict[str, Any]:
    known = [entry for entry in content["categories"] if entry.get("keypoints")]
    chosen = [entry for entry in known if name in (None, entry["name"])]
    if len(chosen) != 1:
        names = [entry["name"] for entry in known]
        raise DatasetError(f"{path} has the key-point categories {names}; say which by category (got {name!r})")
    return chosen[0]
