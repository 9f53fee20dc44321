"""Real samples: a laparoscopic clip, and a driving scene with measured flow. Skipped where they are absent."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from laparoflow.video.cache import FrameCache
from laparoflow.video.decode import Source
from laparoflow.video.flow import DISFlow, consistency_mask
from laparoflow.video.precomputed import read_flow
from laparoflow.video.prepare import prepare
from laparoflow.video.settings import PrepareSettings

DATA = Path(os.environ.get("LAPAROFLOW_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def sample(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the real sample {name} is not at {DATA}")
    return path


def test_flow_against_measured_flow():
    """KITTI has large motion (median 20 px and more); DIS's own measure of trust must find its errors."""
    folder = sample("kitti2015_flow")
    source, target = (cv2.imread(str(folder / f"kitti_000010_{k}.png"))[..., ::-1] for k in (10, 11))
    true, known = read_flow(folder / "kitti_occ_000010_10.png")
    unoccluded, seen = read_flow(folder / "kitti_noc_000010_10.png")
    assert known.mean() > 0.1
    assert np.allclose(true[:, seen], unoccluded[:, seen])
    pair = DISFlow()(np.ascontiguousarray(source), np.ascontiguousarray(target))
    valid = consistency_mask(pair, np.ones(known.shape, bool))
    error = np.linalg.norm(pair.forward - true, axis=0)
    trusted, doubted = error[known & valid], error[known & ~valid]
    zero = np.linalg.norm(true, axis=0)[known]
    assert np.median(trusted) < 1.0
    assert (trusted > 3).mean() < 0.15
    assert np.median(trusted) < 0.1 * np.median(zero)
    assert (doubted > 3).mean() > 2 * (trusted > 3).mean()
    hidden = known & ~seen
    assert valid[hidden].mean() < 0.5 * valid[seen].mean()


def test_laparoscopic_clip(tmp_path):
    """Every 25th frame of the clip: the circle is found, most flow is consistent, motion was found."""
    path = next(sample("video").glob("*.mp4"))
    report = prepare([path], tmp_path / "cache", PrepareSettings(short_side=120, frame_rate=1.0), progress=False)
    cache = FrameCache.open(tmp_path / "cache")
    clip = report.clips[0]
    assert clip.report["frames"] == clip.report["expected"] == 250
    assert len(cache) == 10
    assert clip.border["circle"] is not None
    x, y, radius = clip.border["circle"]
    assert (x, y, radius) == pytest.approx((619, 397, 574), abs=6)
    whole = Source(path).spread(8)
    rows, columns = np.mgrid[0:720, 0:1280]
    outside = np.hypot(columns - x, rows - y) > radius + 8
    assert np.median([frame.max(-1)[outside].mean() for frame in whole]) < 24
    for frame in cache:
        assert 0.6 < frame.valid.mean() < 0.95
        assert 0.3 < np.percentile(np.linalg.norm(frame.flow, axis=0)[frame.valid], 90) < 40


def test_image_sequence(tmp_path):
    folder = sample("sznitman_laparoscopy") / "trainData"
    few = tmp_path / "frames"
    few.mkdir()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".bmp"))[:12]:
        (few / path.name).symlink_to(path)
    settings = replace(PrepareSettings(short_side=144, frame_rate=None), min_motion=0.0)
    report = prepare([few], tmp_path / "cache", settings, progress=False)
    assert report.clips[0].report["frames"] == 12
    assert "opencv" in report.clips[0].decoder
    assert FrameCache.open(tmp_path / "cache").sizes == [(144, 192)]
