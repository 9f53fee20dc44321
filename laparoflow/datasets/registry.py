"""Data sets by name: one table, one function.

To add a data set: write one file with a `SegmentationDataset` or `KeypointDataset` in it, and name it here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from laparoflow.datasets.cholecseg8k import CholecSeg8k
from laparoflow.datasets.coco_keypoints import CocoKeypoints
from laparoflow.datasets.coco_segmentation import CocoSegmentation
from laparoflow.datasets.endovis15 import Endovis15Rigid, Endovis15Robotic, Endovis15RoboticPose
from laparoflow.datasets.endovis15_pose import Endovis15Pose
from laparoflow.datasets.image_masks import ImageMasks
from laparoflow.datasets.m2caiseg import M2caiSeg
from laparoflow.datasets.samples import FrameDataset, SegmentationDataset
from laparoflow.datasets.sar_rarp50 import SarRarp50
from laparoflow.datasets.splits import split_dataset
from laparoflow.datasets.synthetic import SyntheticKeypoints, SyntheticSegmentation
from laparoflow.datasets.sznitman import Sznitman

Task = Literal["segmentation", "keypoints"]
Part = Literal["all", "train", "val", "test"]

KNOWN: tuple[type[FrameDataset[Any]], ...] = (
    CholecSeg8k, M2caiSeg, SarRarp50, ImageMasks, Endovis15Robotic, Endovis15RoboticPose, Endovis15Rigid, Endovis15Pose,
    CocoKeypoints, CocoSegmentation, SyntheticSegmentation, SyntheticKeypoints, Sznitman,
)  # fmt: skip
READERS: dict[tuple[str, str], Callable[..., FrameDataset[Any]]] = {
    (reader.name, "segmentation" if issubclass(reader, SegmentationDataset) else "keypoints"): reader for reader in KNOWN
}


def dataset_names(task: str | None = None) -> tuple[str, ...]:
    """Names of the data sets, or of those that serve one task."""
    return tuple(sorted({name for name, served in READERS if task in (None, served)}))


def build_dataset(name: str, root: str | Path, split: Part = "all", *, task: Task | None = None, **options: Any) -> Any:
    """Opens a data set by name.

    Args:
        name, root: one of `dataset_names()`, and its folder.
        split: "all" frames, or one part of the split "auto" (see `splits.py`); of published train and val parts alone,
            "test" and "val" are the same.
        task: "segmentation" or "keypoints"; needed only for a data set that has both.
        **options: the reader's own options (for instance `classes=8`).

    Returns:
        A `SegmentationDataset` or a `KeypointDataset`.

    Raises:
        ValueError: an unknown name, task, part or option, or a data set that does not serve the task.
        DatasetError: what is on disk is not that data set.
    """
    tasks = [served for known, served in READERS if known == name]
    if not tasks:
        raise ValueError(f"dataset must be one of {', '.join(dataset_names())}, got {name!r}")
    if task is None and len(tasks) > 1:
        raise ValueError(f"{name} has labels for {' and '.join(tasks)}: say which by task")
    task = task or tasks[0]  # type: ignore[assignment]
    if task not in tasks:
        raise ValueError(f"{name} has labels for {' and '.join(tasks)}, not for {task!r}; try {dataset_names(task)}")
    if split not in ("all", "train", "val", "test"):
        raise ValueError(f"split must be all, train, val or test, got {split!r}")
    reader = READERS[name, task]
    known = [parameter for parameter in inspect.signature(reader).parameters if parameter != "root"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    dataset = reader(Path(root), **options)
    if split == "all":
        return dataset
    parts = split_dataset(dataset)
    indices = parts.test if split == parts.record.get("test_part") else getattr(parts, split)
    if not indices:
        raise ValueError(f"{name}: the split by {parts.by} has no {split} part")
    chosen = dataset.select(indices)
    if parts.warning:
        chosen.warn(parts.warning)
    return chosen
