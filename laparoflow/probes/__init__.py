"""Probes: what frozen features know, measured with few labels."""

from laparoflow.lazy import lazily
from laparoflow.probes.settings import ProbeOptions, ProbeResult, ProbeRun, ProbeSettings

__all__ = ["ProbeOptions", "ProbeResult", "ProbeRun", "ProbeSettings", "probe_keypoints", "probe_segmentation", "run_probe"]

__getattr__ = lazily(__name__, keypoints="probe_keypoints", run="run_probe", segmentation="probe_segmentation")
