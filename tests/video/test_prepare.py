"""prepare: what is kept, what is left out and said, what is refused before work is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections import namedtuple
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from footage import SCENE, SMALL_SHARDS, frames_of, joined_video, latin_titled_video, tree, video
from torchvision.models.optical_flow import raft_small

from laparoflow.files import DiskFullError
from laparoflow.synthetic import render_clip
from laparoflow.synthetic.dataset import write_video
from laparoflow.video.cache import CacheError, FrameCache
from laparoflow.video.decode import VideoError
from laparoflow.video.prepare import prepare
from laparoflow.video.settings import PrepareSettings


def run(inputs, out, settings=SMALL_SHARDS, **options):
    return prepare([inputs] if not isinstance(inputs, list) else inputs, out, settings, progress=False, **options)


def test_images_and_flow_of_a_clip(tmp_path):
    clip = render_clip(SCENE, 8, seed=2)
    write_video(tmp_path / "a.mp4", clip.images, 25)
    report = run(tmp_path / "a.mp4", tmp_path / "cache")
    cache = FrameCache.open(tmp_path / "cache")
    assert report.frames == len(cache) == 7
    assert report.excluded == {"no target frame": 1}
    for frame in cache:
        assert np.abs(frame.image.astype(np.float32) - clip.images[frame.frame]).mean() < 6
        error = np.linalg.norm(frame.flow - clip.flow[frame.frame], axis=0)
        assert np.median(error[frame.valid]) < 0.4
        assert not frame.valid[clip.masks[frame.frame] == 255].any()
    assert cache.clips[0].border["circle"] is not None
    assert cache.settings["dis_preset"] == "medium"
    assert "PyAV" in cache.clips[0].decoder
    picture = cv2.imread(str(tmp_path / "cache" / "pictures" / "a.png"))
    assert picture.shape[1] == 3 * 128
    written = json.loads((tmp_path / "cache" / "report.json").read_text())
    assert written["frames"] == 7


def test_rate_size_crop_and_gap(tmp_path):
    video(tmp_path / "a.mp4", 24)
    settings = replace(SMALL_SHARDS, short_side=48, frame_rate=5.0, gaps=(2,))
    run(tmp_path / "a.mp4", tmp_path / "cache", settings)
    cache = FrameCache.open(tmp_path / "cache")
    assert [frame.frame for frame in cache] == [0, 5, 10, 15, 20]
    assert {frame.gap for frame in cache} == {2}
    assert cache[0].image.shape == (48, 64, 3)
    run(tmp_path / "a.mp4", tmp_path / "exact", replace(SMALL_SHARDS, height=40, width=40))
    assert FrameCache.open(tmp_path / "exact").sizes == [(40, 40)]


def test_flow_scales_with_the_frame(tmp_path):
    clip = render_clip(SCENE, 4, seed=3)
    write_video(tmp_path / "a.mp4", clip.images, 25)
    run(tmp_path / "a.mp4", tmp_path / "cache", replace(SMALL_SHARDS, height=192, width=128))
    frame = FrameCache.open(tmp_path / "cache")[0]
    true = np.repeat(clip.flow[0], 2, axis=1) * np.array([1, 2], np.float32)[:, None, None]
    assert np.median(np.linalg.norm(frame.flow - true, axis=0)[frame.valid]) < 0.6


def test_border_is_cropped_or_kept(tmp_path):
    images = np.zeros((4, 120, 200, 3), np.uint8)
    inner = frames_of(4)[:, :, :96]
    y, x = np.mgrid[0:96, 0:96] - 47.5
    inner = np.where((np.hypot(x, y) < 46)[..., None], np.maximum(inner, 60), 0)
    images[:, 10:106, 50:146] = inner
    write_video(tmp_path / "a.mp4", images, 25)
    settings = replace(SMALL_SHARDS, min_motion=0.0)
    run(tmp_path / "a.mp4", tmp_path / "crop", settings)
    run(tmp_path / "a.mp4", tmp_path / "keep", replace(settings, crop_border=False))
    cropped, kept = FrameCache.open(tmp_path / "crop"), FrameCache.open(tmp_path / "keep")
    assert np.allclose(cropped[0].image.shape[:2], (93, 93), atol=3)
    assert kept[0].image.shape == (120, 200, 3)
    assert not kept[0].valid[:, :50].any()
    assert 0.5 < cropped[0].valid.mean() < np.pi / 4


def test_black_frozen_cut_and_still_frames_are_left_out_and_reported(tmp_path):
    """Frames 0-5 move, 6-8 repeat frame 5, 9-11 are black, 12-16 another scene, then a cut to a third, 17-22."""
    first, second, third = frames_of(6, 0), frames_of(5, 11), frames_of(6, 12)
    dark = np.full_like(first[:3], 6)
    images = np.concatenate([first, np.repeat(first[-1:], 3, 0), dark, second, third])
    write_video(tmp_path / "a.mp4", images, 25, quality=1)
    report = run(tmp_path / "a.mp4", tmp_path / "cache")
    excluded = report.clips[0].report["excluded"]
    assert excluded["frozen"] == [5, 6, 7]
    assert excluded["black"] == [8, 9, 10, 11]
    assert excluded["scene cut"] == [16]
    assert [frame.frame for frame in FrameCache.open(tmp_path / "cache")] == [*range(5), *range(12, 16), *range(17, 22)]


def test_frames_without_motion(tmp_path):
    """A pan moves every pixel alike: there is no motion within the frame. The gap is the smallest that shows some."""
    big = frames_of(1, 0)[0]
    pan = np.stack([big[8:88, t : t + 96] for t in range(12)])
    write_video(tmp_path / "pan.mp4", pan, 25, quality=1)
    noise = np.random.default_rng(0).normal(0, 3, (12, 96, 128, 3))
    slow = np.clip(np.repeat(frames_of(3, 5), 4, axis=0) + noise, 0, 255).astype(np.uint8)  # moves at every fourth frame
    write_video(tmp_path / "slow.mp4", slow, 25, quality=1)
    settings = replace(SMALL_SHARDS, gaps=(1, 4), min_motion=0.8, find_border=False)
    report = run([tmp_path / "pan.mp4", tmp_path / "slow.mp4"], tmp_path / "cache", settings)
    pan_clip = report.clips[0]
    assert pan_clip.frames == 0
    assert len(pan_clip.report["excluded"]["no motion"]) == 11
    gaps = {frame.frame: frame.gap for frame in FrameCache.open(tmp_path / "cache")}
    assert gaps == {0: 4, 1: 4, 2: 4, 3: 1, 4: 4, 5: 4, 6: 4, 7: 1}


def test_flows_over_several_gaps_are_stacked(tmp_path):
    """Frame 5 of a clip of 8 has no frame 3 ahead; each pair of channels is the flow that this gap alone gives."""
    path = video(tmp_path / "a.mp4", 8)
    settings = replace(SMALL_SHARDS, gaps=(-2, 1, 3), gap_choice="stack", min_motion=0.0, find_border=False)
    report = run(path, tmp_path / "stack", settings)
    stack = {frame.frame: frame for frame in FrameCache.open(tmp_path / "stack")}
    assert sorted(stack) == [2, 3, 4]
    assert report.excluded == {"no target frame": 5}
    valid = {number: np.ones((96, 128), bool) for number in stack}
    for place, gap in enumerate(settings.gaps):
        run(path, tmp_path / str(gap), replace(settings, gaps=(gap,)))
        for frame in FrameCache.open(tmp_path / str(gap)):
            if frame.frame in stack:
                assert np.array_equal(stack[frame.frame].flow[2 * place : 2 * place + 2], frame.flow)
                assert np.array_equal(stack[frame.frame].image, frame.image)
                valid[frame.frame] &= frame.valid
    assert all(np.array_equal(stack[number].valid, valid[number]) for number in stack)


def test_camera_motion_is_removed_on_request(tmp_path):
    clip = render_clip(replace(SCENE, camera_speed=(3.0, 3.0)), 4, seed=1)
    write_video(tmp_path / "a.mp4", clip.images, 25)
    run(tmp_path / "a.mp4", tmp_path / "keep")
    run(tmp_path / "a.mp4", tmp_path / "free", replace(SMALL_SHARDS, camera_motion="similarity"))
    tissue = clip.masks[0] == 0
    kept, freed = (FrameCache.open(tmp_path / name)[0] for name in ("keep", "free"))
    where = tissue & kept.valid
    with_camera, without = (np.median(np.linalg.norm(f.flow[:, where], axis=0)) for f in (kept, freed))
    assert with_camera > 2.0
    assert without < 0.25 * with_camera
    assert np.array_equal(kept.valid, freed.valid)


def test_precomputed_flow_is_stored_as_it_is(tmp_path):
    clip = render_clip(SCENE, 4, seed=0)
    write_video(tmp_path / "a.mp4", clip.images, 25)
    (tmp_path / "flow" / "a").mkdir(parents=True)
    for t in range(2):
        vectors = np.ascontiguousarray(clip.flow[t].transpose(1, 2, 0))
        cv2.writeOpticalFlow(str(tmp_path / "flow" / "a" / f"{t:06d}.flo"), vectors)
    settings = replace(SMALL_SHARDS, flow_method="precomputed", flow_folder=str(tmp_path / "flow"))
    report = run(tmp_path / "a.mp4", tmp_path / "cache", settings)
    cache = FrameCache.open(tmp_path / "cache")
    assert [frame.frame for frame in cache] == [0, 1]
    assert np.allclose(cache[1].flow, clip.flow[1], atol=0.01)
    assert report.clips[0].report["excluded"]["no consistent flow"] == [2]


def test_raft_weights_count_by_content(tmp_path):
    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "w.pth")
    video(tmp_path / "a.mp4", 2)
    settings = replace(
        SMALL_SHARDS, flow_method="raft", flow_weights=str(tmp_path / "w.pth"), drop_bad_frames=False, min_motion=0.0
    )
    run(tmp_path / "a.mp4", tmp_path / "cache", settings)
    recorded = json.loads((tmp_path / "cache" / "cache.json").read_text())["settings"]["flow_weights"]
    assert recorded.startswith("sha256:")
    shutil.move(tmp_path / "w.pth", tmp_path / "moved.pth")
    again = run(tmp_path / "a.mp4", tmp_path / "cache", replace(settings, flow_weights=str(tmp_path / "moved.pth")))
    assert again.kept == ["a"]
    with pytest.raises(ValueError, match="flow_weights"):
        run(tmp_path / "a.mp4", tmp_path / "cache", settings)


def test_truncated_video_yields_the_readable_part_and_a_report(tmp_path):
    whole = video(tmp_path / "whole.mkv", 40)
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    report = run(tmp_path / "cut.mkv", tmp_path / "cache")
    assert 5 < report.frames < 38
    assert "truncated" in report.problems["cut"]
    assert len(FrameCache.open(tmp_path / "cache")) == report.frames


def test_nothing_is_lost_where_timestamps_restart(tmp_path):
    """Two chapters of 60 frames joined: at half the rate half of each, and no pair from one into the other."""
    path = joined_video(tmp_path / "joined.mpg", [frames_of(60, 0), frames_of(60, 1)])
    settings = replace(SMALL_SHARDS, short_side=48, frame_rate=12.5, min_motion=0.0, gaps=(1, 2), drop_bad_frames=False)
    report = run(path, tmp_path / "cache", settings)
    cache = FrameCache.open(tmp_path / "cache")
    pairs = [(frame.frame, frame.gap) for frame in cache]
    kept = sorted({frame for frame, _ in pairs})
    assert 58 <= len(kept) <= 62
    assert len([frame for frame in kept if frame >= 60]) >= 29
    assert not [(frame, gap) for frame, gap in pairs if frame < 60 <= frame + gap]
    assert all(np.diff([frame.time for frame in cache]) >= 0)
    assert "timestamps restart at frame 60" in report.problems["joined"]
    written = json.loads((tmp_path / "cache" / "report.json").read_text())
    assert written["problems"] == report.problems
    assert written["clips"][0]["report"]["restarts"] == [60]


def test_metadata_in_another_encoding_stops_nothing(tmp_path):
    inputs = [latin_titled_video(tmp_path / "latin.avi", 4), video(tmp_path / "good.mp4", 4)]
    report = run(inputs, tmp_path / "cache", skip_unreadable=True)
    assert (report.prepared, report.unreadable) == (["good", "latin"], {})


def test_unreadable_sources_stop_before_any_work_or_are_skipped(tmp_path):
    good = video(tmp_path / "good.mp4", 4)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        run([good, tmp_path / "bad.mp4"], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    report = run([good, tmp_path / "bad.mp4"], tmp_path / "cache", skip_unreadable=True)
    assert report.prepared == ["good"]
    assert "bad.mp4" in next(iter(report.unreadable))
    with pytest.raises(VideoError, match="inputs"):
        run([], tmp_path / "cache")
    with pytest.raises(VideoError, match="does not exist"):
        run(tmp_path / "absent.mp4", tmp_path / "cache")


def test_second_run_keeps_extends_and_refuses_other_settings(tmp_path):
    video(tmp_path / "a.mp4", 6)
    run(tmp_path / "a.mp4", tmp_path / "cache")
    before = tree(tmp_path / "cache")
    again = run(tmp_path / "a.mp4", tmp_path / "cache")
    assert (again.kept, again.prepared, again.frames) == (["a"], [], 5)
    assert tree(tmp_path / "cache") == before
    video(tmp_path / "b.mp4", 6, seed=1)
    more = run([tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "cache")
    assert (more.kept, more.prepared) == (["a"], ["b"])
    with pytest.raises(CacheError, match=r"gaps is \[1\], asked \[2\]"):
        run(tmp_path / "a.mp4", tmp_path / "cache", replace(SMALL_SHARDS, gaps=(2,)))


def test_cache_of_another_version_and_foreign_folders_are_refused(tmp_path):
    path = video(tmp_path / "a.mp4", 3)
    run(path, tmp_path / "cache")
    header = json.loads((tmp_path / "cache" / "cache.json").read_text())
    (tmp_path / "cache" / "cache.json").write_text(json.dumps({**header, "version": 0}))
    with pytest.raises(CacheError, match="version 0"):
        run(path, tmp_path / "cache")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(CacheError, match="holds other files"):
        run(path, tmp_path / "mine")
    with pytest.raises(CacheError, match="folder, got the file"):
        run(path, path)
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_corrupted_shard_is_named_and_rebuilt(tmp_path):
    path = video(tmp_path / "a.mp4", 12)
    run(path, tmp_path / "cache")
    whole = tree(tmp_path / "cache")
    shard = tmp_path / "cache" / "clips" / "a" / "00001.bin"
    untouched = (tmp_path / "cache" / "clips" / "a" / "00000.bin").stat().st_mtime_ns
    data = bytearray(shard.read_bytes())
    data[200] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CacheError, match=r"00001\.bin is corrupted"):
        FrameCache.open(tmp_path / "cache", verify="hashes")
    report = run(path, tmp_path / "cache")
    assert len(report.rebuilt) == 1
    assert "00001.bin" in report.rebuilt[0]
    assert tree(tmp_path / "cache") == whole
    assert (tmp_path / "cache" / "clips" / "a" / "00000.bin").stat().st_mtime_ns == untouched


def test_full_disk_is_named_and_what_was_done_is_kept(tmp_path, monkeypatch):
    path = video(tmp_path / "a.mp4", 12)
    run(path, tmp_path / "whole")
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 5:  # cache.json, plan.json, the first shard's two files, one of the second's
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("laparoflow.files.os.fsync", full)
    with pytest.raises(DiskFullError, match="disk full while writing"):
        run(path, tmp_path / "cache")
    monkeypatch.undo()
    kept = tmp_path / "cache" / "clips" / "a" / "00000.bin"
    stamp = kept.stat().st_mtime_ns
    assert not list((tmp_path / "cache").rglob("*.partial"))
    run(path, tmp_path / "cache")
    assert kept.stat().st_mtime_ns == stamp
    assert tree(tmp_path / "cache") == tree(tmp_path / "whole")


def test_too_little_space_is_known_before_work(tmp_path, monkeypatch):
    path = video(tmp_path / "a.mp4", 12)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("laparoflow.video.prepare.shutil.disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskFullError, match="not enough space"):
        run(path, tmp_path / "cache")
    assert not (tmp_path / "cache" / "clips").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gaps": ()}, "gaps"), ({"gaps": (0,)}, "gaps"), ({"gaps": (2, 1)}, "increasing"), ({"gaps": (1, 1)}, "gaps"),
        ({"height": 4}, "height"), ({"frame_rate": 0.0}, "frame_rate"), ({"flow_method": "magic"}, "flow_method"),
        ({"flow_method": "raft"}, "flow_weights"), ({"flow_weights": "w.pth"}, "flow_weights"),
        ({"flow_method": "precomputed", "flow_folder": "f", "gaps": (1, 2)}, "gaps"), ({"min_motion": -1.0}, "min_motion"),
        ({"flow_stride": 3}, "flow_stride"), ({"jpeg_quality": 0}, "jpeg_quality"), ({"gaps": (0, 1)}, "gaps"),
        ({"gaps": (1, 2, 3, 4, 5), "gap_choice": "stack"}, "gaps"),
        ({"min_motion": float("nan")}, "min_motion"), ({"shard_megabytes": 0.0}, "shard_megabytes"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        PrepareSettings(**change)


def test_all_videos_share_one_bar_that_names_the_current_one(tmp_path, monkeypatch):
    bars: dict[str, list[tuple[int, str | None]]] = {}

    @contextlib.contextmanager
    def record(what, total, show=True):
        bars[what] = [(total, None)]
        yield lambda count=1, what_now=None: bars[what].append((count, what_now))

    monkeypatch.setattr("laparoflow.video.prepare.show_progress", record)
    for name, frames in (("a", 12), ("b", 13)):
        video(tmp_path / "videos" / f"{name}.mp4", frames)
    prepare([tmp_path / "videos"], tmp_path / "cache", progress=True)
    (total, _), *steps = bars["source frames"]
    assert total == 25
    assert sum(count for count, _ in steps) == 25
    assert list(dict.fromkeys(name for _, name in steps)) == ["a (1 of 2 clips)", "b (2 of 2 clips)"]
