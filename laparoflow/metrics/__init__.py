"""Scores for segmentation and key points."""

from laparoflow.metrics.keypoints import KeypointScores
from laparoflow.metrics.oks import OksAveragePrecision
from laparoflow.metrics.sar_rarp50 import SarRarp50Score
from laparoflow.metrics.segmentation import SegmentationScores
from laparoflow.metrics.surface import SurfaceScores, surface_distance

__all__ = [
    "KeypointScores", "OksAveragePrecision", "SarRarp50Score", "SegmentationScores", "SurfaceScores", "surface_distance",
]  # fmt: skip
