"""Labelled data sets for probes: readers, splits and label budgets."""

from laparoflow.datasets.registry import build_dataset, dataset_names
from laparoflow.datasets.samples import (
    IGNORE_INDEX,
    DatasetError,
    Frame,
    FrameDataset,
    KeypointDataset,
    KeypointSample,
    SegmentationDataset,
    SegmentationSample,
)
from laparoflow.datasets.splits import Split, SplitSettings, label_subset, split_dataset

__all__ = [
    "IGNORE_INDEX",
    "DatasetError",
    "Frame",
    "FrameDataset",
    "KeypointDataset",
    "KeypointSample",
    "SegmentationDataset",
    "SegmentationSample",
    "Split",
    "SplitSettings",
    "build_dataset",
    "dataset_names",
    "label_subset",
    "split_dataset",
]
