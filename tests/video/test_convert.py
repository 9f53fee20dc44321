"""A cache of version 1, as earlier releases wrote it, becomes one of the present version with the same content."""

from __future__ import annotations

import json

import numpy as np
import pytest
from version_1 import write_version_1

from laparoflow.bounds import plain
from laparoflow.video.cache import CacheError, FrameCache
from laparoflow.video.convert import convert_cache
from laparoflow.video.settings import PrepareSettings


@pytest.fixture
def version_1(tmp_path):
    return tmp_path / "old", write_version_1(tmp_path / "old")


def test_frames_flow_and_masks_are_the_same(version_1, tmp_path):
    old, arrays = version_1
    assert [record.frames for record in convert_cache(old, tmp_path / "new")] == [2]
    cache = FrameCache.open(tmp_path / "new", verify="hashes")
    assert [(frame.frame, frame.gap) for frame in cache] == [(0, 1), (1, 2)]
    assert cache.settings == plain(PrepareSettings(dis_preset="fine", frame_rate=None))
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
