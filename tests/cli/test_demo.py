import json

import pytest

from laparoflow.cli import main
from laparoflow.commands.demo import DemoSettings


def test_a_small_demo_runs_through(tmp_path, capsys):
    out = tmp_path / "demo"
    words = ["demo", "--out", str(out), "--max-steps", "2", "--pretrain-clips", "2", "--test-clips", "1"]
    words += ["--frames", "8", "--labels", "3", "--seeds", "0"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "pretrained" in text
    assert "random init" in text
    result = json.loads((out / "demo.json").read_text())
    for backbone in ("trained", "random"):
        assert 0 <= result["scores"]["segmentation"]["mean_iou"][backbone]["mean"] <= 1
    page = (out / "report.html").read_text()
    assert "<html" in page
    split = json.loads((out / "probe_segmentation" / "metrics.json").read_text())["split"]
    assert "clip_002" in json.dumps(split)
    cache = json.loads((out / "cache" / "report.json").read_text())
    assert sorted(clip["name"] for clip in cache["clips"]) == ["clip_000", "clip_001"]  # test clips stay unseen
    assert main(words) == 1  # the folder is there now
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"frames": 4}, {"labels": 0}, {"scene": "other"}, {"pretrain_clips": 0}])
def test_settings_out_of_range_are_named(tmp_path, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        DemoSettings(tmp_path, **change)


def test_too_many_labels_are_known_before_any_work(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--pretrain-clips", "1", "--labels", "50"]) == 1
    assert "labels" in capsys.readouterr().err
    assert not out.exists()
