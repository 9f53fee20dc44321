"""``laparoflow evidence``."""

from __future__ import annotations

from laparoflow.commands.base import Command
from laparoflow.evidence.settings import EvidenceSettings


def run(settings: EvidenceSettings) -> None:
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
    folders={"real_root": "the folder of the real recordings"},
)
