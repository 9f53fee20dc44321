"""Heads that a probe keeps: the same predictions from the files, and refusals that name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_finetune import ColourEncoderWithWeight
from test_run_probe import folder, settings  # noqa: F401
from toys import Blocks, ColourEncoder, Dots

from laparoflow.metrics.segmentation import SegmentationScores
from laparoflow.models.loading import load_encoder
from laparoflow.probes import run_probe
from laparoflow.probes.keypoints import probe_keypoints
from laparoflow.probes.run import probe_data, write_result
from laparoflow.probes.saved import load_head
from laparoflow.probes.segmentation import probe_segmentation
from laparoflow.probes.settings import ProbeOptions


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_head_from_its_files_scores_what_the_probe_says(folder: Path, tmp_path: Path, kind: str) -> None:  # noqa: F811
    chosen = settings(folder, tmp_path / "out", head=kind)
    metrics = run_probe(chosen)
    encoder = load_encoder(folder / "run.ckpt")
    head = load_head(tmp_path / "out", encoder=encoder)
    assert (head.labels, head.seed, head.kind, head.backbone) == (5, 0, kind, "trained")
    _, test, _ = probe_data(chosen)
    scores = SegmentationScores(head.names)
    samples = list(test)
    for sample, mask in zip(samples, head.predict(encoder, [sample.image for sample in samples]), strict=True):
        assert mask.shape == sample.mask.shape
        scores.update(torch.from_numpy(mask), torch.from_numpy(sample.mask), sample.video)
    run = next(r for r in metrics["runs"] if (r["backbone"], r["labels"], r["seed"]) == ("trained", 5, 0))
    assert scores.compute()["mean_iou"] == pytest.approx(run["metrics"]["mean_iou"], abs=1e-6)
    assert len(list((tmp_path / "out" / "heads").glob("*.safetensors"))) == len(metrics["runs"]) == 8


def test_key_points_from_a_kept_head(tmp_path: Path) -> None:
    data = Dots()
    options = ProbeOptions(labels=[4, 12], seeds=[0, 1], steps=120, pictures=0)
    result = probe_keypoints(ColourEncoder(), data.select(range(12)), data.select(range(12, 16)), options)
    write_result(tmp_path, result, {})
    head = load_head(tmp_path, labels=12, seed=1, encoder=ColourEncoder())
    assert (head.names, head.seed) == (("red", "green"), 1)
    found = head.predict(ColourEncoder(), [sample.image for sample in data])
    distances = []
    for sample, joints in zip(data, found, strict=True):
        assert all((joint[:, 2] >= head.threshold).all() for joint in joints)
        for x, y, seen in sample.keypoints[:, 0]:
            if seen:
                distances.append(np.min(np.hypot(joints[0][:, 0] - x, joints[0][:, 1] - y), initial=99.0))
    assert np.median(distances) < 2


def test_another_backbone_and_a_missing_head_are_refused(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        load_head(tmp_path)
    run_probe(settings(folder, tmp_path, labels=[2], seeds=[0]))
    encoder = load_encoder(folder / "run.ckpt")
    with pytest.raises(FileNotFoundError, match="trained 2 0, random 2 0"):
        load_head(tmp_path, labels=22)
    with torch.no_grad():
        next(encoder.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="other weights"):
        load_head(tmp_path, encoder=encoder)
    path = tmp_path / "heads" / "trained_2_0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "deep"}))
    with pytest.raises(ValueError, match=r"trained_2_0\.json is not a head"):
        load_head(path)
    path.with_suffix(".safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"trained_2_0\.json is not a head"):
        load_head(path)


@pytest.mark.parametrize("options", [{"head": "knn"}, {"finetune": True, "finetune_steps": 1}])
def test_votes_and_heads_of_a_changed_backbone_are_not_kept(tmp_path: Path, options: dict) -> None:
    data = Blocks()
    asked = ProbeOptions(labels=[2], seeds=[0], pictures=0, **options)
    result = probe_segmentation(ColourEncoderWithWeight(), data.select(range(4)), data.select(range(8, 12)), asked)
    write_result(tmp_path, result, {})
    with pytest.raises(FileNotFoundError, match=r"its heads .*: none"):
        load_head(tmp_path)
