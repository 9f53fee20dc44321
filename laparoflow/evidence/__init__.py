"""Evidence: ours against every control under one budget."""

from laparoflow.evidence.settings import EvidenceSettings
from laparoflow.lazy import lazily

__all__ = ["EvidenceSettings", "run_evidence"]

__getattr__ = lazily(__name__, run="run_evidence")
