"""`run_probe`: the folder it writes, on a miniature data set and a real checkpoint."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from laparoflow.bounds import plain
from laparoflow.models import EncoderSettings, build_encoder
from laparoflow.probes import ProbeSettings, run, run_probe
from laparoflow.synthetic import SceneParameters, write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds data/ (one clip of 12 labelled frames) and run.ckpt."""
    root = tmp_path_factory.mktemp("probe")
    write_dataset(root / "data", SceneParameters(height=48, width=64), 1, 12, 1, flow=False)
    options = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    encoder = build_encoder(EncoderSettings("laparoflow_convvit_mini", 32, backbone_options=options), seed=3)
    state = {f"method.encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"laparoflow_encoder": plain(encoder.settings), "state_dict": state}, root / "run.ckpt")
    return root


def settings(folder: Path, out: Path, **changes: object) -> ProbeSettings:
    values: dict[str, object] = {
        "task": "segmentation",
        "dataset": "synthetic",
        "root": folder / "data",
        "checkpoint": folder / "run.ckpt",
        "out": out,
        "labels": [2, 5],
        "seeds": [0, 1],
        "steps": 10,
        "pictures": 2,
    }
    return ProbeSettings(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("task", "headline"), [("segmentation", "mean_iou"), ("keypoints", "pck/0.05")])
def test_writes_scores_and_pictures(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, task: str, headline: str
) -> None:
    with caplog.at_level(logging.WARNING):
        metrics = run_probe(settings(folder, tmp_path / "out", task=task))
    assert "one video only" in caplog.text
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["split"]["by"] == "time"
    assert "one video only" in metrics["warnings"][0]
    assert {(r["backbone"], r["labels"], r["seed"]) for r in metrics["runs"]} == {
        (b, n, s) for b in ("trained", "random") for n in (2, 5) for s in (0, 1)
    }
    for entry in metrics["summary"]:
        values = entry[headline]["values"]
        assert len(values) == 2
        assert entry[headline]["mean"] == pytest.approx(sum(values) / 2)
    pictures = sorted((tmp_path / "out" / "predictions").glob("*.png"))
    assert len(pictures) == 4
    assert Image.open(pictures[0]).height == 48
    assert (tmp_path / "out" / "features" / "trained_features_pca.png").is_file()


def test_fractions_of_the_command_line_and_what_they_took(folder: Path, tmp_path: Path, capsys) -> None:
    from laparoflow.cli import main

    words = f"--task segmentation --dataset synthetic --root {folder / 'data'} --checkpoint {folder / 'run.ckpt'}"
    words += f" --out {tmp_path / 'out'} --labels 0.5 1.0 1 --seeds 0 --steps 1 --pictures 0 --random_control false"
    assert main(["probe", *words.split()]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    frames = metrics["split"]["train_frames"]
    assert [run["labels"] for run in metrics["runs"]] == [frames // 2, frames, 1]
    assert metrics["label_budgets"]["labels"] == {"0.5": frames // 2, "1.0": frames, "1": 1}
    assert f"labels 1.0: {frames} of {frames} training frames" in capsys.readouterr().out


def test_a_finished_probe_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(FileExistsError, match="overwrite"):
        run_probe(settings(folder, tmp_path))
    assert (tmp_path / "metrics.json").read_text() == "{}"


def test_split_by_video_of_one_video_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--split time"):
        run_probe(settings(folder, tmp_path, split="video"))


def test_missing_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_probe(settings(folder, tmp_path, checkpoint=folder / "nowhere"))


def test_task_that_the_data_set_lacks(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task must be one of"):
        settings(folder, tmp_path, task="depth")
    with pytest.raises(ValueError, match="sznitman has labels for keypoints"):
        run_probe(settings(folder, tmp_path, dataset="sznitman"))


def test_controls_stand_beside_the_trained_network(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    state = torch.load(folder / "run.ckpt", weights_only=True)["state_dict"]
    prefix = "method.encoder.backbone.model."
    torch.save({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, weights)
    metrics = run_probe(
        settings(
            folder,
            tmp_path / "out",
            labels=[3],
            seeds=[0],
            weights_control=weights,
            scratch_labels=[4],
            finetune_steps=3,
            nsd_tolerance=2.0,
        )
    )
    assert not any(text.startswith("scratch_labels") for text in metrics["warnings"])
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    found = {(r["backbone"], r["labels"]): r["metrics"] for r in metrics["runs"]}
    assert set(found) == {("trained", 3), ("random", 3), ("weights file", 3), ("from scratch", 4)}
    assert found["weights file", 3]["mean_iou"] == found["trained", 3]["mean_iou"]
    assert found["random", 3]["mean_iou"] != found["trained", 3]["mean_iou"]
    assert 0 < found["trained", 3]["mean_nsd"] <= 1
    assert "mean_nsd" in metrics["summary"][0]


def test_scratch_labels_that_cannot_be_are_refused_before_any_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> None:
        raise AssertionError("work was done before the settings were checked")

    monkeypatch.setattr(run, "probe_encoders", work)
    monkeypatch.setattr(run, "probe_segmentation", work)
    with pytest.raises(ValueError, match=r"scratch_labels.*head linear or conv, got head 'knn'"):
        run_probe(settings(folder, tmp_path / "out", head="knn", scratch_labels=[2]))
    with pytest.raises(ValueError, match=r"scratch_labels asks for 220 frames, the training part has \d"):
        run_probe(settings(folder, tmp_path / "out", scratch_labels=[2, 220]))
    assert not (tmp_path / "out").exists()


def test_scores_are_kept_when_the_network_from_scratch_fails(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("laparoflow.probes.probe.finetune", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_probe(settings(folder, tmp_path, labels=[2], seeds=[0], random_control=False, scratch_labels=[2]))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [(r["backbone"], r["labels"]) for r in metrics["runs"]] == [("trained", 2)]
    assert any(text.startswith("scratch_labels") for text in metrics["warnings"])
    assert len(list((tmp_path / "predictions").glob("trained_*.png"))) == 2


def test_weights_control_by_a_tagged_name_keeps_the_options(folder: Path, tmp_path: Path) -> None:
    options = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    own = build_encoder(EncoderSettings("vit_small_patch16_224", 32, backbone_options=options), seed=3)
    state = {f"method.encoder.{name}": value for name, value in own.state_dict().items()}
    torch.save({"laparoflow_encoder": plain(own.settings), "state_dict": state}, tmp_path / "vit.ckpt")
    torch.save(own.backbone.model.state_dict(), tmp_path / "dino.pth")
    control = {"weights_control": tmp_path / "dino.pth", "weights_backbone": "vit_small_patch16_224.dino"}
    encoders = run.probe_encoders(settings(folder, tmp_path, checkpoint=tmp_path / "vit.ckpt", **control))
    assert encoders["trained"].image_mean.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert encoders["weights file"].image_mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_unknown_pretraining_data_is_said(folder: Path, tmp_path: Path) -> None:
    metrics = run_probe(settings(folder, tmp_path / "out", labels=[2], seeds=[0], random_control=False))
    assert any("overlap with the test videos is unknown" in text for text in metrics["warnings"])


def test_overlap_with_the_pretraining_cache_is_found(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laparoflow.probes.run.pretraining_videos", lambda _: ["somewhere/clip_000.mp4"])
    metrics = run_probe(settings(folder, tmp_path / "out", labels=[2], seeds=[0], random_control=False))
    assert any("has the name of test video clip_000" in text for text in metrics["warnings"])


def test_training_on_one_set_and_testing_on_another(folder: Path, tmp_path: Path) -> None:
    own_map = tmp_path / "map.yaml"
    mapping = "{tissue: ground, organ_a: organ, organ_b: organ}"
    own_map.write_text(f"version: 3\nvariants: {{default: {{classes: [ground, organ], synthetic: {mapping}}}}}\n")
    write_dataset(tmp_path / "other", SceneParameters(height=48, width=64), 1, 3, 9, flow=False)
    metrics = run_probe(
        settings(
            folder,
            tmp_path / "out",
            test_dataset="synthetic",
            test_root=tmp_path / "other",
            class_map=str(own_map),
            labels=[4],
            seeds=[0],
        )
    )
    assert metrics["names"] == ["ground", "organ"]
    assert metrics["split"]["class_map"] == {"name": "map", "version": 3, "variant": "default"}
    assert (metrics["split"]["train_frames"], metrics["split"]["test_frames"]) == (12, 3)
    with pytest.raises(ValueError, match="go together"):
        settings(folder, tmp_path, test_dataset="synthetic")
