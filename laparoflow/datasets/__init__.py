"""Labelled data sets for probes: readers, splits and label budgets."""

from laparoflow.datasets.settings import SplitSettings
from laparoflow.lazy import lazily

__all__ = [
    "IGNORE_INDEX", "ClassMap", "DatasetError", "Frame", "FrameDataset", "KeypointDataset", "KeypointSample",
    "MappedSegmentation", "SegmentationDataset", "SegmentationSample", "Split", "SplitSettings", "build_dataset",
    "class_map_names", "dataset_names", "label_subset", "load_class_map", "overlap_warnings", "split_dataset",
]  # fmt: skip

__getattr__ = lazily(
    __name__,
    class_map="ClassMap MappedSegmentation class_map_names load_class_map",
    overlap="overlap_warnings",
    registry="build_dataset dataset_names",
    reading="DatasetError",
    samples="IGNORE_INDEX Frame FrameDataset KeypointDataset KeypointSample SegmentationDataset SegmentationSample",
    splits="Split label_subset split_dataset",
)
