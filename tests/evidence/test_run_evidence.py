"""The comparison end to end, at the smallest size; and its verdicts on made-up scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from laparoflow.evidence import EvidenceSettings, run_evidence
from laparoflow.evidence.verdicts import verdicts

RECIPE = """
max_steps: 2
batch_size: 2
encoder: {backbone: laparoflow_convvit_mini, image_size: 32, embed_stride: 4, dim: 8, hidden: 16}
views: {size: [32, 32]}
trainer: {accelerator: cpu, progress: false, tensorboard: false}
"""


def tiny(folder: Path, **changes: object) -> EvidenceSettings:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    values: dict[str, object] = {
        "out": folder / "out",
        "scenes": ["default"],
        "seeds": [0, 1],
        "labels": [1, 3],
        "scratch_labels": [3],
        "scratch_steps": 2,
        "max_steps": 2,
        "probe_steps": 5,
        "recipe": [str(recipe)],
        "pretrain_clips": 1,
        "test_clips": 1,
        "frames": 6,
        "methods": ["flow", "coordinates"],
    }
    return EvidenceSettings(**(values | changes))  # type: ignore[arg-type]


def test_a_later_recipe_changes_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = tmp_path / "later.yaml"
    later.write_text("max_steps: 3\n")
    settings = tiny(tmp_path, max_steps=None)
    settings.recipe.append(str(later))
    steps: list[int] = []

    def note_steps(recipe: Any) -> None:
        steps.append(recipe.max_steps)
        raise KeyboardInterrupt

    monkeypatch.setattr("laparoflow.evidence.run.pretrain", note_steps)
    with pytest.raises(KeyboardInterrupt):
        run_evidence(settings)
    assert steps == [3]


@pytest.mark.slow
def test_all_methods_budgets_and_seeds_are_scored(tmp_path: Path) -> None:
    document = run_evidence(tiny(tmp_path))
    assert document == json.loads((tmp_path / "out" / "evidence.json").read_text())
    found = {(e["task"], e["method"], e["labels"], e["seed"]) for e in document["entries"]}
    expected = {
        (task, method, labels, seed)
        for task in ("segmentation", "keypoints")
        for method, budgets in {"flow": (1, 3), "coordinates": (1, 3), "random init": (1, 3), "from scratch": (3,)}.items()
        for labels in budgets
        for seed in (0, 1)
        if (task, method) != ("keypoints", "from scratch")
    }
    assert found == expected
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "default: segmentation, mean IoU" in page
    assert "default: IoU per class" in page and ", 3 labels" in page
    assert "default: PCK at 5 % of the diagonal per joint" in page
    assert document["complete"]
    assert document["seconds"] > 0
    assert all(verdict["text"] in page for verdict in document["verdicts"])
    stopped = tmp_path / "out" / "default" / "runs" / "begun_seed_0"  # killed before its first checkpoint
    (tmp_path / "out" / "default" / "runs" / "flow_seed_0").rename(stopped)
    (tmp_path / "out" / "default" / "runs" / "flow_seed_0").mkdir()
    (tmp_path / "out" / "default" / "runs" / "flow_seed_0" / "config.yaml").write_text("begun")
    assert run_evidence(tiny(tmp_path))["entries"] == document["entries"]
    shutil.rmtree(stopped)
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.ckpt"))
    again = run_evidence(tiny(tmp_path))
    assert again["entries"] == document["entries"]
    assert again["seconds"] > document["seconds"]  # time of all calls together
    assert before == sorted(path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.ckpt"))
    with pytest.raises(ValueError, match=r"other settings \(labels\)"):
        run_evidence(tiny(tmp_path, labels=[2]))


def entry(method: str, labels: int, seed: int, score: float) -> dict[str, object]:
    return {"scene": "s", "task": "segmentation", "method": method, "labels": labels, "seed": seed, "score": score}


def test_verdicts_ask_for_intervals_apart() -> None:
    scores = {("flow", 22): (0.5, 0.6), ("uniform", 22): (0.3, 0.49), ("coordinates", 22): (0.4, 0.51)}
    scores |= {("from scratch", 22): (0.7, 0.8), ("from scratch", 220): (0.45, 0.49), ("random init", 5): (0.1, 0.1)}
    entries = [entry(m, n, s, v) for (m, n), values in scores.items() for s, v in enumerate(values)]
    found = {(v["other"], v["other_labels"]): v for v in verdicts(entries)}
    assert set(found) == {("uniform", 22), ("coordinates", 22), ("from scratch", 22), ("from scratch", 220)}
    assert found["uniform", 22]["separated"]
    assert not found["coordinates", 22]["separated"]
    assert "flow with 22 labels overlaps with coordinates with 22" in found["coordinates", 22]["text"]
    assert "is below" in found["from scratch", 22]["text"]
    assert found["from scratch", 220]["ours_labels"] == 22
    assert found["from scratch", 220]["separated"]
    assert found["coordinates", 22]["ahead"] == 2
    assert "ahead with 2 of 2 seeds" in found["coordinates", 22]["text"]
    assert found["from scratch", 22]["ahead"] == 0


def test_one_seed_beats_nothing() -> None:
    (found,) = verdicts([entry("flow", 22, 0, 0.9), entry("uniform", 22, 0, 0.1)])
    assert not found["separated"]
    assert "scores above" in found["text"]
    assert "one seed" in found["text"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["flows"]}, "methods must be some of"),
        ({"scenes": ["real"]}, "real_root"),
        ({"labels": [7]}, "labels go up to 6"),
        ({"frames": 0}, "frames must be at least 1"),
    ],
)
def test_settings_are_checked(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(tmp_path, **changes)


def test_quick_is_less_of_the_same(tmp_path: Path) -> None:
    quick = tiny(tmp_path, scenes=["held_out", "default"], scratch_labels=[3, 5], quick=True).effective
    assert (quick.scenes, quick.seeds, quick.scratch_labels) == (["default"], [0], [3])
    assert quick.methods == ["flow", "coordinates"]


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        run_evidence(tiny(tmp_path))


@pytest.mark.parametrize("changes", [{"seeds": [0, 0, 1]}, {"labels": [2, 2]}, {"methods": ["flow", "flow"]}], ids=str)
def test_what_is_given_twice_counts_once_and_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name} must differ from one another"):
        EvidenceSettings(tmp_path / "out", **changes)
