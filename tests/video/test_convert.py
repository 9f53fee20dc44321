"""A cache of version 1, as earlier releases wrote it, becomes one of the present version with the same content."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from laparoflow.video.cache import CacheError, FrameCache
from laparoflow.video.convert import convert_cache
from laparoflow.video.settings import PrepareSettings


@pytest.fixture
def version_1(tmp_path):
    """Two shards, of two frames and of none, in the layout of version 1."""
    old, rng = tmp_path / "old", np.random.default_rng(0)
    folder = old / "clips" / "a"
    folder.mkdir(parents=True)
    ramp = np.broadcast_to(np.linspace(0, 250, 26).astype(np.uint8)[:, None], (2, 20, 26, 3))
    arrays = {
        "frames": np.ascontiguousarray(ramp),
        "flow": rng.normal(0, 2, (2, 2, 20, 26)).astype(np.float16),
        "valid": np.packbits(rng.random((2, 20, 26)) > 0.3, axis=-1),
    }
    files = {}
    for part, array in arrays.items():
        path = folder / f"00000.{part}.npy"
        np.save(path, array)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    samples = [{"frame": k, "time": k / 25, "gap": 1 + k, "motion": 2.0} for k in range(2)]
    (folder / "00000.json").write_text(json.dumps({"number": 0, "samples": samples, "excluded": {}, "files": files}))
    (folder / "00001.json").write_text(json.dumps({"number": 1, "samples": [], "excluded": {"black": [2]}, "files": {}}))
    clip = {
        "name": "a", "source": "a.mp4", "fingerprint": "f", "frames": 2, "height": 20, "width": 26, "frame_rate": 25.0,
        "shards": 2, "content_hash": "c", "decoder": "d", "border": {}, "report": {"excluded": {"black": [2]}},
    }  # fmt: skip
    (folder / "clip.json").write_text(json.dumps(clip))
    settings = PrepareSettings(dis_preset="fine", frame_rate=None).as_dict()
    for later in ("flow_stride", "jpeg_quality"):
        del settings[later]
    (old / "cache.json").write_text(json.dumps({"format": "laparoflow-cache", "version": 1, "settings": settings}))
    return old, arrays


def test_frames_flow_and_masks_are_the_same(version_1, tmp_path):
    old, arrays = version_1
    assert [record.frames for record in convert_cache(old, tmp_path / "new")] == [2]
    cache = FrameCache.open(tmp_path / "new", verify="hashes")
    assert [(frame.frame, frame.gap) for frame in cache] == [(0, 1), (1, 2)]
    assert cache.settings == PrepareSettings(dis_preset="fine", frame_rate=None).as_dict()
    for row, frame in enumerate(cache):
        assert np.array_equal(frame.flow, arrays["flow"][row].astype(np.float32))
        assert np.array_equal(frame.valid, np.unpackbits(arrays["valid"][row], axis=-1, count=26).astype(bool))
        assert np.abs(frame.image.astype(int) - arrays["frames"][row]).max() <= 6


def test_damage_another_version_and_an_existing_folder_are_refused(version_1, tmp_path):
    old, _ = version_1
    with pytest.raises(CacheError, match="does not exist"):
        convert_cache(old, old)
    path = old / "clips" / "a" / "00000.flow.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CacheError, match=r"00000\.flow\.npy is missing or damaged"):
        convert_cache(old, tmp_path / "new")
    (old / "cache.json").write_text(json.dumps({"format": "laparoflow-cache", "version": 2, "settings": {}}))
    with pytest.raises(CacheError, match="version 1, got version 2"):
        convert_cache(old, tmp_path / "newer")
    with pytest.raises(CacheError, match="not a cache"):
        convert_cache(tmp_path, tmp_path / "newest")
