"""Normalised surface distance (NSD) of binary masks, in two dimensions.

The boundary of a mask is its pixels with a neighbour (up, down, left, right) outside the mask; outside the picture is
outside the mask. With tolerance tau in pixels, Euclidean distances between pixel centres:

    NSD = ( |{p in dP : d(p, dT) <= tau}| + |{t in dT : d(t, dP) <= tau}| ) / ( |dP| + |dT| )

Both boundaries empty: undefined, None. One empty: 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from laparoflow.metrics.segmentation import mean_of


def surface_distance(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float) -> float | None:
    """NSD of two masks bool [H, W] with a tolerance in pixels; None where both are empty."""
    if prediction.shape != truth.shape or prediction.ndim != 2:
        raise ValueError(f"masks must be [H, W] of one shape, got {prediction.shape} and {truth.shape}")
    if tolerance < 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    found, there = (mask & ~binary_erosion(mask) for mask in (prediction, truth))
    if not found.any() and not there.any():
        return None
    if not found.any() or not there.any():
        return 0.0
    near_truth = distance_transform_edt(~there)[found] <= tolerance
    near_found = distance_transform_edt(~found)[there] <= tolerance
    return float((near_truth.sum() + near_found.sum()) / (near_truth.size + near_found.size))


class SurfaceScores:
    """Mean NSD per class, names with id 0 first, over the frames in which truth or prediction has the class."""

    def __init__(self, classes: tuple[str, ...], tolerance: float) -> None:
        self.classes, self.tolerance = classes, tolerance
        self._values: list[list[float]] = [[] for _ in classes]

    def update(self, prediction: NDArray[np.int64], truth: NDArray[np.int64], ignored: int) -> None:
        """Counts one frame: class ids [H, W]; where the truth is `ignored`, neither mask holds anything."""
        kept = truth != ignored
        for index in range(len(self.classes)):
            value = surface_distance((prediction == index) & kept, (truth == index) & kept, self.tolerance)
            if value is not None:
                self._values[index].append(value)

    def compute(self) -> dict[str, object]:
        """mean_nsd and per_class_nsd as JSON values; None for a class that no frame has."""
        means = [mean_of(values) for values in self._values]
        return {
            "mean_nsd": mean_of(means),
            "per_class_nsd": dict(zip(self.classes, means, strict=True)),
            "nsd_tolerance_px": self.tolerance,
        }
