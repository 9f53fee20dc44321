"""Probes: what frozen features know, measured with few labels."""

from laparoflow.probes.keypoints import probe_keypoints
from laparoflow.probes.run import run_probe
from laparoflow.probes.segmentation import probe_segmentation
from laparoflow.probes.settings import (
    ProbeOptions,
    ProbeResult,
    ProbeRun,
    ProbeSettings,
)

__all__ = [
    "ProbeOptions",
    "ProbeResult",
    "ProbeRun",
    "ProbeSettings",
    "probe_keypoints",
    "probe_segmentation",
    "run_probe",
]
