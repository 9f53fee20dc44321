import csv

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laparoflow.models import load_encoder
from laparoflow.synthetic import SceneParameters, write_dataset
from laparoflow.training.online import OnlineProbe, effective_rank, feature_spread
from laparoflow.training.run import pretrain
from laparoflow.training.settings import OnlineSettings


def test_effective_rank_counts_directions():
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 32)).Q
    for rank in (1, 3, 16):
        cells = torch.randn(4000, rank) @ basis[:rank]
        assert effective_rank(cells).item() == pytest.approx(rank, rel=0.02)


def test_spread_is_one_for_isotropic_and_zero_for_collapsed_features():
    torch.manual_seed(0)
    assert feature_spread(torch.randn(5000, 64)).item() == pytest.approx(1.0, abs=0.02)
    assert feature_spread(torch.ones(100, 64)).item() < 1e-3


def test_a_run_watches_itself_and_is_not_changed_by_it(make_settings, tmp_path):
    write_dataset(tmp_path / "labelled", SceneParameters(height=64, width=64), 1, 6, seed=5, flow=False)
    trainer = {"average": 0.9}
    plain = make_settings("plain", trainer)
    pretrain(plain)
    online = OnlineSettings(every=2, root=tmp_path / "labelled", frames=4)
    watched = make_settings("watched", trainer | {"tensorboard": True}, online=online)
    pretrain(watched)
    rows = list(csv.DictReader(next(watched.out.rglob("metrics.csv")).open()))
    for name in ("linear", "knn", "effective_rank", "feature_spread"):
        values = [float(row[f"online/{name}"]) for row in rows if row.get(f"online/{name}")]
        assert len(values) == 2, name
        assert all(value > 0 for value in values)
    assert len(list((watched.out / "pictures").glob("features_*.png"))) == 2
    events = EventAccumulator(str(watched.out / "logs" / "tensorboard")).Reload()
    assert [image.step for image in events.Images("features")] == [1, 3]
    one, two = (load_encoder(s.out, averaged=False).state_dict() for s in (plain, watched))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_frames_without_a_label_are_refused_before_the_first_step(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / "labelled" / name / "video").mkdir(parents=True)
    for i in range(4):
        mask = torch.full((32, 32), 255 if i % 2 else 0, dtype=torch.uint8)
        Image.fromarray(torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()).save(tmp_path / f"labelled/images/video/{i}.png")
        Image.fromarray(mask.numpy()).save(tmp_path / f"labelled/masks/video/{i}.png")
    (tmp_path / "labelled" / "classes.json").write_text('{"classes": ["tissue", "tool"], "ignore": [255]}')
    settings = OnlineSettings(dataset="image_masks", root=tmp_path / "labelled", frames=4)
    with pytest.raises(ValueError, match=r"online\.frames: one half of the 4 frames in .* has no labelled pixel"):
        OnlineProbe(settings, tmp_path).setup(None, None, "fit")


def test_the_average_is_saved_continued_and_preferred(make_settings):
    trainer = {"average": 0.9, "checkpoint_every": 3, "keep": 9}
    whole = make_settings("whole", trainer, max_steps=6)
    pretrain(whole)
    averaged, last = (load_encoder(whole.out, averaged=flag).state_dict() for flag in (True, False))
    assert any(not torch.equal(averaged[name], last[name]) for name in averaged)
    cut = make_settings("cut", trainer, max_steps=6)
    pretrain(cut)
    (cut.out / "checkpoints" / "last.ckpt").unlink()
    (cut.out / "checkpoints" / "step_0000006.ckpt").unlink()
    pretrain(make_settings("cut", trainer, max_steps=6, resume=True))
    resumed = load_encoder(cut.out).state_dict()
    assert all(torch.equal(averaged[name], resumed[name]) for name in averaged)
