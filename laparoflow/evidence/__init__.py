"""Evidence: ours against every control under one budget."""

from laparoflow.evidence.run import run_evidence
from laparoflow.evidence.settings import EvidenceSettings

__all__ = ["EvidenceSettings", "run_evidence"]
