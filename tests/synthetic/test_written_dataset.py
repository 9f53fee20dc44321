"""The synthetic data set on disk is what it says and decodes to what was rendered."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from laparoflow.synthetic import CLASSES, KEYPOINTS, SceneParameters, render_clip, write_dataset
from laparoflow.synthetic.dataset import write_video
from laparoflow.video.decode import Source

SMALL = SceneParameters(height=64, width=96, wavelengths=(9.0, 7.0, 9.0))


def test_layout_and_content(tmp_path):
    described = write_dataset(tmp_path / "set", SMALL, videos=2, frames=5, seed=7, label_every=2)
    root = tmp_path / "set"
    content = json.loads(described.read_text())
    assert described == root / "dataset.json"
    assert content["classes"] == list(CLASSES)
    assert content["keypoints"] == list(KEYPOINTS)
    assert [clip["name"] for clip in content["clips"]] == ["clip_000", "clip_001"]
    clip = render_clip(SMALL, 5, seed=content["clips"][1]["seed"])
    assert sorted(p.name for p in (root / "images" / "clip_001").iterdir()) == ["000000.png", "000002.png", "000004.png"]
    image = cv2.imread(str(root / "images" / "clip_001" / "000002.png"))[..., ::-1]
    assert np.array_equal(image, clip.images[2])
    mask = cv2.imread(str(root / "masks" / "clip_001" / "000004.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, clip.masks[4])
    points = json.loads((root / "keypoints" / "clip_001.json").read_text())
    assert np.allclose(points["frames"]["000002"], clip.keypoints[2], atol=1e-3)
    with np.load(root / "flow" / "clip_001.npz") as stored:
        assert stored["flow"].shape == (5, 2, 64, 96)
        assert np.allclose(stored["flow"], clip.flow, atol=0.01)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_video_decodes_to_the_rendered_frames(tmp_path, codec):
    clip = render_clip(SMALL, 6, seed=1)
    write_video(tmp_path / "clip.mp4", clip.images, 25, codec)
    decoded = np.stack([frame.rgb() for frame in Source(tmp_path / "clip.mp4").frames()])
    assert decoded.shape == clip.images.shape
    error = np.abs(decoded.astype(np.float32) - clip.images).mean()
    assert error < 6.0
    shuffled = np.abs(decoded.astype(np.float32) - clip.images[::-1]).mean()
    assert error < shuffled


def test_same_arguments_give_the_same_files(tmp_path):
    for name in ("a", "b"):
        write_dataset(tmp_path / name, SMALL, videos=1, frames=2, seed=3)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) == 1 + 1 + 2 + 2 + 1 + 1
    for file in files:
        if file.suffix != ".npz":  # a zip carries its time of writing
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_bad_arguments(tmp_path):
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(ValueError, match="not empty"):
        write_dataset(tmp_path, SMALL, videos=1, frames=1)
    assert (tmp_path / "file").read_text() == "keep me"
    with pytest.raises(ValueError, match="videos"):
        write_dataset(tmp_path / "x", SMALL, videos=0, frames=1)
    with pytest.raises(ValueError, match="images"):
        write_video(tmp_path / "odd.mp4", np.zeros((2, 33, 32, 3), np.uint8), 25)
