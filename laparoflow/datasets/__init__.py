"""Labelled data sets for probes: readers, splits and label budgets."""

from laparoflow.datasets.class_map import ClassMap, MappedSegmentation, class_map_names, load_class_map
from laparoflow.datasets.overlap import overlap_warnings
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
    "ClassMap",
    "DatasetError",
    "Frame",
    "FrameDataset",
    "KeypointDataset",
    "KeypointSample",
    "MappedSegmentation",
    "SegmentationDataset",
    "SegmentationSample",
    "Split",
    "SplitSettings",
    "build_dataset",
    "class_map_names",
    "dataset_names",
    "label_subset",
    "load_class_map",
    "overlap_warnings",
    "split_dataset",
]
