"""The scene "real" on miniatures: which recordings each pool holds, what is scored where, intervals over test frames."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from laparoflow.evidence import EvidenceSettings, recordings, run_evidence
from laparoflow.evidence.pools import pool_rows, pool_verdicts
from laparoflow.evidence.recordings import altered, pools, read_recordings
from laparoflow.evidence.transfer import _shown
from laparoflow.metrics.segmentation import resampled_mean_iou
from laparoflow.synthetic.dataset import write_video

RECIPE = """
max_steps: 2
batch_size: 2
encoder: {backbone: laparoflow_convvit_mini, image_size: 32, embed_stride: 4, dim: 8, hidden: 16}
views: {size: [32, 32]}
trainer: {accelerator: cpu, progress: false, tensorboard: false}
"""


def scene(number: int, time: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame of 48 x 64 and its grey mask: a shaft with a head that moves two pixels a frame over a texture."""
    rng = np.random.default_rng(number)
    image = rng.integers(60, 120, (12, 16, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    grey = np.zeros((48, 64), np.uint8)
    top, left = 14 + number % 5, (2 * time) % 24
    grey[top : top + 12, left : left + 22], grey[top : top + 12, left + 22 : left + 34] = 160, 70
    image[grey == 160], image[grey == 70] = (220, 220, 210), (150, 160, 230)
    return image, grey


def tip(number: int, time: int) -> list[dict[str, object]]:
    """Key points of every other frame: where the shaft meets the head, and the end of the head."""
    if time % 2:
        return []
    top, left = 14 + number % 5, (2 * time) % 24
    places = {"Shaft": left + 11, "Head": left + 22, "LeftClasper": left + 34, "RightClasper": left + 34, "End": left}
    return [{"class": f"{name}Point", "id": "tool1", "x": x, "y": top + 6} for name, x in places.items()]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two robotic and two rigid recordings, and two folders of unlabelled clips; all work is done at their own size."""
    monkeypatch.setattr(recordings, "SIZE", (48, 64))
    monkeypatch.setattr(recordings, "PREPARE", replace(recordings.PREPARE, height=48, width=64))
    root = tmp_path / "recordings"
    for number in (1, 2):
        frames = [scene(number, time) for time in range(16)]
        folder = root / "endovis15_robotic" / f"Dataset{number}"
        folder.mkdir(parents=True)
        write_video(folder / "Video.avi", np.stack([image for image, _ in frames]), 25)
        masks = np.stack([grey for _, grey in frames])[..., None].repeat(3, -1)
        write_video(folder / "Segmentation.avi", masks, 25, quality=1)
        labels = [{"filename": f"{time}.png", "annotations": tip(number, time)} for time in range(16)]
        (folder / f"test{number}_labels.json").write_text(json.dumps(labels))
        stills = root / "endovis15_rigid" / f"OP{number}"
        for name in ("Raw", "Masks"):
            (stills / name).mkdir(parents=True)
        for time in range(3):
            image, grey = scene(10 + number, 3 * time)
            Image.fromarray(image).save(stills / "Raw" / f"img_{time:02d}_raw.png")
            Image.fromarray(grey).save(stills / "Masks" / f"img_{time:02d}_class.png")
        other = root / f"others{number}"
        other.mkdir()
        clip = np.stack([scene(20 + number, time)[0] for time in range(16)])
        write_video(other / "clip.mp4", clip, 25)
    return root


def tiny(folder: Path, root: Path, **changes: object) -> EvidenceSettings:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    values: dict[str, object] = {
        "out": folder / "out",
        "scenes": ["real"],
        "real_root": root,
        "pools": ["unseen"],
        "seeds": [0],
        "labels": [1, 2],
        "scratch_labels": [220],
        "scratch_steps": 1,
        "probe_steps": 5,
        "recipe": [str(recipe)],
        "methods": ["flow", "shuffled flow"],
    }
    return EvidenceSettings(**(values | changes))  # type: ignore[arg-type]


def test_no_pool_holds_what_its_name_leaves_out(root: Path) -> None:
    known = read_recordings(root)
    found = {pool.part: pool for pool in pools(root, ["unseen", "same procedure", "seen"], known)}
    videos = {number: root / "endovis15_robotic" / f"Dataset{number}" / "Video.avi" for number in (1, 2)}
    assert found["unseen"].sources == [root / "others1", root / "others2"]
    assert found["seen"].sources == [videos[1], videos[2]]
    robotic = ["robotic Dataset1 to Dataset2", "robotic Dataset2 to Dataset1"]
    assert list(found["unseen"].tasks) == [*robotic, "rigid OP1 to OP2", "rigid OP2 to OP1"]
    assert list(found["seen"].tasks) == robotic
    for number, task in zip((1, 2), robotic, strict=True):
        part = found[f"same procedure Dataset{number}"]
        assert (part.sources, list(part.tasks)) == ([videos[number]], [task])
    for pool in found.values():
        for first, second in pool.tasks.values():
            assert first.name != second.name
            assert pool.name != "same procedure" or second.video not in pool.sources
    for name in ("others1", "others2"):
        shutil.rmtree(root / name)
    with pytest.raises(ValueError, match=r"real_root: .* has no folder of unlabelled video"):
        pools(root, ["unseen"], known)


def test_masks_and_pictures_stay_together(root: Path) -> None:
    recording = read_recordings(root)["robotic"][0]
    assert recording.images.shape[2:] == recording.masks.shape[1:] == (48, 64)
    bright = recording.images.mean(1) > 0.75  # the shaft
    shaft = recording.masks == 1
    assert ((bright & shaft).sum((1, 2)) / (bright | shaft).sum((1, 2))).min() > 0.8
    views = altered(recording.images, recording.masks)
    assert set(views) == {"plain", "mirrored", "cropped", "recoloured"}
    for name, (images, masks) in views.items():
        bright, shaft = images[:, 1] > 0.68, masks == 1
        kept = (bright | shaft).any(2).any(1)
        overlap = (bright & shaft).sum((1, 2)) / (bright | shaft).sum((1, 2)).clamp(min=1)
        assert overlap[kept].min() > 0.7, name
    assert not torch.equal(views["plain"][0], views["mirrored"][0])


def test_key_points_are_those_of_their_recording(root: Path) -> None:
    for number, recording in zip((1, 2), read_recordings(root)["robotic"], strict=True):
        assert recording.points is not None
        for part in recording.points:
            for sample, frame in zip(part, part.frames, strict=True):
                shaft = dict(zip(part.joints, sample.keypoints[0], strict=True))["Shaft"]
                assert tuple(shaft[:2]) == ((2 * frame.order) % 24 + 11, 14 + number % 5 + 6)
                assert sample.image[int(shaft[1]), int(shaft[0])].min() > 190  # the shaft is bright
    (root / "endovis15_robotic" / "Dataset1" / "test1_labels.json").unlink()
    assert [recording.points is None for recording in read_recordings(root)["robotic"]] == [True, False]


def test_every_row_is_scored_on_every_task(tmp_path: Path, root: Path) -> None:
    document = run_evidence(tiny(tmp_path, root))
    methods = {"flow", "shuffled flow", "random init", "colour and place"}
    tasks = {f"{a} to {b}" for a, b in (("robotic Dataset1", "Dataset2"), ("robotic Dataset2", "Dataset1"))}
    tasks |= {"rigid OP1 to OP2", "rigid OP2 to OP1"}
    points = [e for e in document["entries"] if e["task"] == "keypoints"]
    probes = [e for e in document["entries"] if e not in points and not e["where"].startswith("propagation")]
    found = {(e["method"], e["where"], e["labels"]) for e in probes}
    expected = {(method, task, labels) for method in methods for task in tasks for labels in (1, 2)}
    expected |= {("from scratch", task, 16 if "robotic" in task else 3) for task in tasks}  # 220 asks for all
    assert found == expected
    tracked = {(e["method"], e["where"]) for e in document["entries"] if e["where"].startswith("propagation")}
    assert tracked == {(method, f"propagation, robotic Dataset{number}") for method in methods for number in (1, 2)}
    robotic = {f"key points, {task}" for task in tasks if "robotic" in task}
    expected = {(method, where, labels) for method in methods for where in robotic for labels in (1, 2)}
    expected |= {("from scratch", where, 8) for where in robotic}
    assert {(e["method"], e["where"], e["labels"]) for e in points} == expected
    rows = {row["method"]: row for row in document["pools"]}
    assert set(rows) == methods | {"from scratch"}
    assert rows["flow"]["keypoints"] == {0: pytest.approx(np.mean([e["score"] for e in points if e["method"] == "flow"]))}
    for method in ("flow", "random init"):
        assert all(rows[method][name] is not None for name in ("stem", "last", "retrieval", "mirrored", "cropped"))
    assert rows["flow"]["mean"] == pytest.approx(np.mean([e["score"] for e in probes if e["method"] == "flow"]))
    names = {f"retrieval_{task.replace(' ', '_')}" for task in tasks}
    names |= {f"propagation_robotic_Dataset{number}" for number in (1, 2)}
    expected_pictures = {f"{name}_{method.replace(' ', '_')}.png" for name in names for method in methods}
    assert {path.name for path in (tmp_path / "out" / "real" / "unseen" / "pictures").iterdir()} == expected_pictures
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(f"real/unseen/pictures/{name}" in page for name in expected_pictures)
    text = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    assert "**Pool unseen" in text
    assert "| colour and place |" in text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert str(root) not in json.dumps(summary)
    assert "entries" not in summary
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_seed_0.json")}
    assert len(before) == 5
    assert run_evidence(tiny(tmp_path, root))["entries"] == document["entries"]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_seed_0.json")}


def test_a_picture_shows_frame_truth_and_what_was_found() -> None:
    images, masks = torch.full((5, 3, 8, 12), 0.5), torch.zeros(5, 8, 12, dtype=torch.int64)
    masks[:, :, 6:] = 2
    maps = torch.nn.functional.one_hot(masks[:, ::2, ::2], 3).movedim(-1, 1).float()
    maps[-1] = maps[-1].flip(2)  # left for right
    picture = _shown(images, masks, maps)
    assert picture.shape == (3 * 8, 3 * 12 + 2 * 4, 3)
    frame, truth, found = (picture.reshape(3, 8, -1, 3)[:, :, at : at + 12] for at in (0, 16, 32))
    assert (frame == 128).all()
    assert (truth[:, :, 0] != truth[:, :, -1]).any(-1).all()
    assert np.array_equal(found[:2, :, [0, -1]], truth[:2, :, [0, -1]])
    assert np.array_equal(found[2, :, [0, -1]], truth[2, :, [-1, 0]])


def test_one_recording_alone_has_no_shuffled_control(tmp_path: Path, root: Path) -> None:
    document = run_evidence(tiny(tmp_path, root, pools=["same procedure"], labels=[1], scratch_labels=[]))
    assert {row["method"] for row in document["pools"]} == {"flow", "random init", "colour and place"}
    assert {entry["where"] for entry in document["entries"] if entry["method"] == "flow"} == {
        "robotic Dataset1 to Dataset2",
        "robotic Dataset2 to Dataset1",
        "key points, robotic Dataset1 to Dataset2",
        "key points, robotic Dataset2 to Dataset1",
        "propagation, robotic Dataset1",
        "propagation, robotic Dataset2",
    }


def made_up(method: str, seed: int, right: float) -> dict[str, object]:
    """An entry whose every test frame has this share of right pixels."""
    hit = round(100 * right)
    frame = [hit, 100 - hit, 100 - hit, hit]
    score = hit / (200 - hit)
    metrics = {"mean_iou": score, "per_class_iou": {"a": score, "b": score}, "frames": [[frame] * 8]}
    values = {"scene": "unseen: t", "task": "segmentation", "pool": "unseen", "where": "t", "labels": 5, "metrics": metrics}
    return values | {"method": method, "seed": seed, "score": score}


def test_a_clear_lead_needs_every_seed_and_the_interval() -> None:
    scores = {"flow": (0.8, 0.9), "coordinates": (0.7, 0.85), "uniform": (0.5, 0.6)}
    entries = [made_up(method, seed, value) for method, values in scores.items() for seed, value in enumerate(values)]
    rows = {row["method"]: row for row in pool_rows(entries)}
    assert "lead" not in rows["flow"]
    assert rows["uniform"]["lead"]["clear"]
    assert not rows["coordinates"]["lead"]["clear"]  # ahead with both seeds, but 0.8 is below 0.85
    assert rows["coordinates"]["lead"]["ahead"] == 2
    assert rows["uniform"]["lead"]["low"] == pytest.approx(rows["uniform"]["lead"]["mean"])  # all frames are alike
    texts = [verdict["text"] for verdict in pool_verdicts(list(rows.values()))]
    assert any("uniform" in text and "a clear lead of" in text for text in texts)
    assert any("coordinates" in text and "no clear lead" in text for text in texts)


def test_drawing_frames_again_shows_their_spread() -> None:
    good, bad = np.array([[9, 1], [1, 9]]), np.array([[5, 5], [5, 5]])
    same = resampled_mean_iou(np.stack([good] * 6), 200, 0)
    assert same == pytest.approx(np.full(200, 9 / 11))
    mixed = resampled_mean_iou(np.stack([good, bad] * 3), 200, 0)
    assert mixed.std() > 0.03
    assert mixed.mean() == pytest.approx(7 / 13, abs=0.03)
    assert (mixed == resampled_mean_iou(np.stack([good, bad] * 3), 200, 0)).all()
