"""Scores for segmentation and key points."""

from laparoflow.metrics.keypoints import KeypointScores
from laparoflow.metrics.segmentation import SegmentationScores

__all__ = ["KeypointScores", "SegmentationScores"]
