"""``laparoflow evidence``."""

from __future__ import annotations

from pathlib import Path

from laparoflow.commands.base import Command, need
from laparoflow.evidence.settings import EvidenceSettings


def check(settings: EvidenceSettings) -> None:
    """Refuse real recordings that are not there."""
    if settings.real_root is not None:
        need("real_root", Path(settings.real_root), "the folder of the real recordings", folder=True)


def run(settings: EvidenceSettings) -> None:
    """Compare methods under one budget."""
    from laparoflow.evidence.run import run_evidence

    run_evidence(settings)


COMMAND = Command(
    EvidenceSettings,
    run,
    {
        "what goes in and out": ("out", "scenes", "real_root", "pools", "quick"),
        "pretraining": ("methods", "recipe", "max_steps", "pretrain_clips", "test_clips", "frames"),
        "probes": ("seeds", "labels", "probe_steps", "scratch_labels", "scratch_steps", "scratch_tasks"),
        "scores": ("test_every", "device"),
    },
    check=check,
)
