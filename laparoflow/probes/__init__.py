"""Probes: what frozen features know, measured with few labels."""

from laparoflow.lazy import lazily
from laparoflow.probes.settings import ProbeSettings as ProbeSettings

__getattr__ = lazily(__name__, run="run_probe")
