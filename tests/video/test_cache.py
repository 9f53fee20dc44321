"""The cache: what is written is read, and nothing damaged, foreign or unfinished is read as if it were whole."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from footage import SMALL_SHARDS, video

from laparoflow.video import shards
from laparoflow.video.cache import CacheError, FrameCache
from laparoflow.video.codec import decode_flow, decode_image, encode_flow
from laparoflow.video.prepare import prepare
from laparoflow.video.shards import Shard, read_record


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache of two clips of 12 and 9 frames, in shards of five."""
    root = tmp_path_factory.mktemp("made")
    video(root / "a.mp4", 12, seed=0)
    video(root / "b.mp4", 9, seed=1)
    prepare([root / "a.mp4", root / "b.mp4"], root / "cache", SMALL_SHARDS, progress=False)
    return root / "cache"


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "cache")


def test_random_access_equals_order(made):
    cache = FrameCache.open(made)
    assert len(cache) == 11 + 8
    assert [clip.name for clip in cache.clips] == ["a", "b"]
    assert len(cache.clips[0].files) == 3
    order = [(frame.clip, frame.frame) for frame in cache]
    assert order == [(0, i) for i in range(11)] + [(1, i) for i in range(8)]
    frame = cache[-1]
    assert (frame.clip, frame.frame, frame.gap) == (1, 7, 1)
    assert frame.time == pytest.approx(7 / 25)
    assert frame.image.shape == (96, 128, 3)
    assert (frame.image.dtype, frame.flow.dtype, frame.valid.dtype) == (np.uint8, np.float32, bool)
    assert frame.flow.shape == (2, 96, 128)
    assert frame.valid.shape == (96, 128)
    assert cache.sizes == [(96, 128)]
    with pytest.raises(IndexError):
        cache[19]


def test_frames_are_the_callers_own(made):
    cache = FrameCache.open(made)
    cache[3].image[:] = 0
    assert cache[3].image.any()


def test_travels_to_workers(made):
    cache = FrameCache.open(made)
    first = cache[0].flow
    again = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(again[0].flow, first)
    assert len(pickle.dumps(cache)) < 20_000  # arrays do not travel


READ_ALL = """
import resource, sys
from laparoflow.video.cache import FrameCache
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
cache = FrameCache.open(sys.argv[1])
assert sum(len(clip.files) for clip in cache.clips) > 128
print(sum(cache[index].image.shape == (32, 43, 3) for index in range(len(cache))))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the limit of open files is POSIX")
def test_more_shards_than_files_may_be_open(tmp_path):
    settings = replace(SMALL_SHARDS, short_side=32, shard_megabytes=0.001, min_motion=0.0, find_border=False)
    report = prepare([video(tmp_path / "a.mp4", 135)], tmp_path / "cache", settings, progress=False)
    command = [sys.executable, "-c", READ_ALL, str(tmp_path / "cache")]
    done = subprocess.run(command, text=True, capture_output=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, f"{report.frames}\n"), done.stderr
    assert report.frames > 128


def test_a_shard_that_shrinks_or_goes_while_the_cache_is_open_is_named(copy):
    cache = FrameCache.open(copy)
    path = copy / "clips" / "a" / "00001.bin"
    last = 9  # of the second shard
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CacheError, match=r"00001\.bin is damaged or has become shorter"):
        cache[last]
    path.unlink()
    with pytest.raises(CacheError, match=r"cannot read .*00001\.bin"):
        cache[last]
    assert cache[0].image.any()


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 10, 13), (8, 1, 1), (2, 64, 96)])
def test_flow_is_stored_without_loss_beyond_half_precision_and_its_grid(shape, stride):
    rng = np.random.default_rng(0)
    scale = rng.choice([1e-6, 1e-2, 3.0, 1e3], shape)
    flow = (rng.normal(0, 1, shape) * scale).astype(np.float32)
    valid = rng.random(shape[1:]) > 0.5
    read, mask = decode_flow(encode_flow(flow, valid, stride), *shape, stride)
    assert np.array_equal(mask, valid)
    if stride == 1:
        assert np.array_equal(read, flow.astype(np.float16).astype(np.float32))
    again, _ = decode_flow(encode_flow(np.full(shape, -2.5, np.float32), valid, stride), *shape, stride)
    assert np.array_equal(again, np.full(shape, -2.5, np.float32))


def test_flow_that_varies_slowly_is_kept_to_hundredths_of_a_pixel_by_every_second_vector():
    y, x = np.mgrid[:60, :81].astype(np.float32)
    flow = np.stack([3 * np.sin(x / 20), 2 * np.cos(y / 15)])
    read, _ = decode_flow(encode_flow(flow, np.ones((60, 81), bool), 2), 2, 60, 81, 2)
    assert np.abs(read - flow)[:, 2:-2, 2:-2].max() < 0.02


def test_a_shard_gives_back_what_was_put_in(tmp_path):
    rng = np.random.default_rng(0)
    frame = np.ascontiguousarray(np.broadcast_to(np.linspace(0, 255, 26, dtype=np.uint8)[:, None], (20, 26, 3)))
    flows = list(rng.normal(0, 3, (3, 2, 20, 26)).astype(np.float32))
    flows[0][0, 0, 0], flows[1][1, 2, 3] = np.nan, 1e9
    valids = list(rng.random((3, 20, 26)) > 0.5)
    shard = Shard(7, quality=95, stride=1)
    for number, source in enumerate((3, 4, 6)):
        shard.add(source, source / 25, number + 1, 2.0, frame, flows[number], valids[number])
    shard.exclude("black", 5)
    shard.write(tmp_path)
    record = read_record(tmp_path, 7)
    assert record is not None
    assert record == shard.record
    assert record.excluded == {"black": [5]}
    data = (tmp_path / "00007.bin").read_bytes()
    for sample, flow, valid in zip(record.samples, flows, valids, strict=True):
        image = decode_image(data[sample.image : sample.image + sample.image_bytes])
        assert np.abs(image.astype(int) - frame).max() <= 6
        read, mask = decode_flow(data[sample.flow : sample.flow + sample.flow_bytes], 2, 20, 26, 1)
        assert np.isfinite(read).all()
        assert np.array_equal(mask, valid)
        known = np.isfinite(flow) & (np.abs(flow) < 1e4)
        assert np.allclose(read[known], flow[known], rtol=1e-3, atol=1e-6)
    assert decode_flow(data[record.samples[0].flow :], 2, 20, 26, 1)[0][0, 0, 0] == 0


@pytest.mark.parametrize("file", ["00001.bin", "index.npy"])
def test_a_flipped_bit_is_found_and_its_file_named(copy, file):
    path = copy / "clips" / "a" / file
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(CacheError, match=rf"{file} is corrupted"):
        FrameCache.open(copy, verify="hashes")
    assert len(FrameCache.open(copy, verify="sizes")) == 19


def test_a_sample_of_the_shards_is_compared_at_each_opening(copy, monkeypatch):
    read = []
    plain = shards.sha256
    monkeypatch.setattr(shards, "sha256", lambda path: read.append(path.name) or plain(path))
    monkeypatch.setattr("laparoflow.video.cache.SAMPLED_SHARDS", 1)
    FrameCache.open(copy)
    assert sum(name.endswith(".bin") for name in read) == 1
    FrameCache.open(copy, verify="sizes")
    assert sum(name.endswith(".bin") for name in read) == 1


def test_reading_needs_two_files_a_clip_and_the_shards(copy):
    for record in (copy / "clips").glob("*/0*.json"):
        record.unlink()
    assert len([frame.image for frame in FrameCache.open(copy, verify="hashes")]) == 19


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_read_every_shard_once_between_them(copy, processes, monkeypatch):
    read = []
    plain = shards.sha256
    monkeypatch.setattr(shards, "sha256", lambda path: read.append(path) or plain(path))
    for process in range(processes):
        FrameCache.open(copy, "hashes", part=(process, processes))
    compared = [path for path in read if path.suffix == ".bin"]
    assert len(compared) == len(set(compared)) == len(list(copy.rglob("*.bin")))
    path = copy / "clips" / "a" / "00001.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    for process in range(processes):
        if process == 1:
            with pytest.raises(CacheError, match=r"00001\.bin is corrupted"):
                FrameCache.open(copy, "hashes", part=(process, processes))
        else:
            FrameCache.open(copy, "hashes", part=(process, processes))
    with pytest.raises(ValueError, match="part"):
        FrameCache.open(copy, part=(2, 2))


def test_missing_and_short_files_are_found_by_size(copy):
    path = copy / "clips" / "b" / "00000.bin"
    path.write_bytes(path.read_bytes()[:-1])
    (copy / "clips" / "a" / "00001.bin").unlink()
    with pytest.raises(CacheError, match=r"00001\.bin is missing.*00000\.bin has"):
        FrameCache.open(copy, verify="sizes")


def test_other_version_and_no_cache(copy, tmp_path):
    header = json.loads((copy / "cache.json").read_text())
    (copy / "cache.json").write_text(json.dumps({**header, "version": 99}))
    with pytest.raises(CacheError, match="version 99"):
        FrameCache.open(copy)
    (copy / "cache.json").write_text(json.dumps({**header, "version": 1}))
    with pytest.raises(CacheError, match="laparoflow convert"):
        FrameCache.open(copy)
    (copy / "cache.json").write_text("{")
    with pytest.raises(CacheError, match="damaged"):
        FrameCache.open(copy)
    (copy / "cache.json").write_text("[]")
    with pytest.raises(CacheError, match="does not describe"):
        FrameCache.open(copy)
    with pytest.raises(CacheError, match="is not a cache"):
        FrameCache.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="verify"):
        FrameCache.open(copy, verify="maybe")


def test_unfinished_clips_are_left_out_with_a_warning(copy):
    (copy / "clips" / "a" / "clip.json").unlink()
    with pytest.warns(UserWarning, match="not finished and left out: a"):
        cache = FrameCache.open(copy)
    assert {frame.clip for frame in cache} == {0}
    assert cache.clips[0].name == "b"
    (copy / "clips" / "b" / "clip.json").unlink()
    with pytest.warns(UserWarning, match="not finished"), pytest.raises(CacheError, match="holds no frame"):
        FrameCache.open(copy)


def test_padding_keeps_what_is_there_and_masks_the_rest(made):
    frame = FrameCache.open(made)[0]
    padded = frame.padded(100, 130)
    assert np.array_equal(padded.image[:96, :128], frame.image)
    assert np.array_equal(padded.flow[:, :96, :128], frame.flow)
    assert padded.valid.sum() == frame.valid.sum()
