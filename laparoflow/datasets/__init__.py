"""Labelled data sets for probes: readers, splits and label budgets."""

from laparoflow.datasets.settings import SplitSettings as SplitSettings
from laparoflow.lazy import lazily

__getattr__ = lazily(
    __name__,
    class_map="ClassMap MappedSegmentation class_map_names load_class_map",
    overlap="overlap_warnings",
    registry="build_dataset dataset_names",
    reading="DatasetError",
    samples="IGNORE_INDEX Frame FrameDataset KeypointDataset KeypointSample SegmentationDataset SegmentationSample",
    splits="Split label_subset split_dataset",
)
