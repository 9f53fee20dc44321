"""Which clip a source is: one content is one clip, and its name does not depend on what comes with it."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import cv2
import pytest
from footage import SMALL_SHARDS, frames_of, tree, video

from laparoflow.video.cache import CacheError, FrameCache
from laparoflow.video.names import clip_names
from laparoflow.video.plan import fingerprint
from laparoflow.video.prepare import prepare

FAST = replace(SMALL_SHARDS, short_side=32, min_motion=0.0, find_border=False)


def run(inputs, out, **options):
    return prepare(inputs if isinstance(inputs, list) else [inputs], out, FAST, progress=False, **options)


def clips(out):
    return sorted(path.parent.name for path in (out / "clips").glob("*/clip.json"))


@pytest.fixture
def logs(tmp_path):
    """Three folders that each hold a video of the same name, as data sets do."""
    for number in (1, 2, 3):
        video(tmp_path / "rarp" / f"Log_{number}" / "DVC" / "memory.mp4", 4, seed=number)
    return tmp_path / "rarp"


def test_names_are_unique(tmp_path):
    paths = [tmp_path / name for name in ("x/a.mp4", "y/a.mp4", "b.mp4")]
    assert clip_names(paths) == ["x__a", "y__a", "b"]
    for others in (["a.mp4", "a.avi"], ["a/b.mp4", "c/b.mp4", "a__b.mp4"], ["a__b.mp4", "c/b.mp4", "a/b.mp4"]):
        names = clip_names([tmp_path / other for other in others])
        assert len(set(names)) == len(others)
    assert clip_names(paths[:1], beside=paths[1:]) == ["x__a"]
    assert clip_names(paths[2:], taken=["b"]) == [f"{tmp_path.name}__b"]
    assert clip_names([]) == []


def test_adding_videos_keeps_what_is_there(logs, tmp_path):
    out = tmp_path / "cache"
    assert run(logs / "Log_1", out).prepared == ["memory"]
    before = tree(out / "clips" / "memory")
    assert run(logs / "Log_2", out).prepared == ["Log_2__DVC__memory"]
    report = run(logs, out)
    assert (report.kept, report.prepared) == (["memory", "Log_2__DVC__memory"], ["Log_3__DVC__memory"])
    assert clips(out) == ["Log_2__DVC__memory", "Log_3__DVC__memory", "memory"]
    assert tree(out / "clips" / "memory") == before
    assert len({clip.fingerprint for clip in FrameCache.open(out).clips}) == 3


def test_a_source_that_moved_or_was_begun_keeps_its_clip(logs, tmp_path):
    out = tmp_path / "cache"
    run(logs / "Log_1", out)
    (out / "clips" / "memory" / "clip.json").unlink()
    whole = sorted(path.name for path in (out / "clips" / "memory").iterdir())
    shutil.move(logs / "Log_1" / "DVC" / "memory.mp4", logs / "Log_1" / "DVC" / "renamed.mp4")
    report = run([logs / "Log_2", logs / "Log_1"], out)
    assert report.prepared == ["Log_2__DVC__memory", "memory"]
    assert sorted(path.name for path in (out / "clips" / "memory").iterdir()) == sorted([*whole, "clip.json"])
    shutil.move(logs, tmp_path / "elsewhere")
    assert sorted(run(tmp_path / "elsewhere", out).kept) == ["Log_2__DVC__memory", "memory"]


def test_copies_are_one_clip_and_reported(logs, tmp_path):
    copy = shutil.copy(logs / "Log_1" / "DVC" / "memory.mp4", tmp_path / "copy.mp4")
    report = run([logs / "Log_1", copy], tmp_path / "cache")
    assert (report.prepared, report.duplicates) == (["memory"], {str(copy): "memory"})
    again = run(copy, tmp_path / "cache")
    assert (again.kept, again.prepared, again.duplicates) == (["memory"], [], {})
    assert json.loads((tmp_path / "cache" / "report.json").read_text())["duplicates"] == {}


def test_copies_of_what_cannot_be_read_are_unreadable(logs, tmp_path):
    for name in ("empty.mp4", "also_empty.mp4"):
        (logs / name).write_bytes(b"")
    report = run(logs, tmp_path / "cache", skip_unreadable=True)
    assert sorted(report.unreadable) == [str(logs / "also_empty.mp4"), str(logs / "empty.mp4")]
    assert (len(report.prepared), report.duplicates) == (3, {})


def test_another_file_at_the_same_place(tmp_path):
    """A finished clip is never taken for another file's; one that had only begun is given up for it."""
    path, out = video(tmp_path / "a.mp4", 4, seed=0), tmp_path / "cache"
    run(path, out)
    video(path, 4, seed=1)
    with pytest.raises(CacheError, match="of another file"):
        run(path, out)
    (out / "clips" / "a" / "clip.json").unlink()
    assert run(path, out).prepared == ["a"]
    assert clips(out) == ["a"]
    assert FrameCache.open(out).clips[0].fingerprint == fingerprint(path)


def test_uncompressed_images_of_equal_names_and_sizes_are_told_apart(tmp_path):
    for number in (1, 2):
        folder = tmp_path / "stills" / f"Log_{number}" / "left"
        folder.mkdir(parents=True)
        for place, image in enumerate(frames_of(3, seed=number)):
            cv2.imwrite(str(folder / f"{place}.bmp"), image)
    report = run(tmp_path / "stills", tmp_path / "cache")
    assert report.prepared == ["Log_1__left", "Log_2__left"]
    assert report.duplicates == {}


@pytest.mark.parametrize("seed", range(3))
def test_processes_that_start_at_different_times_agree(logs, tmp_path, seed, monkeypatch):
    """Each finds what those before it wrote: copies, clips of an earlier run, names that need parents."""
    out = tmp_path / "cache"
    run(logs / "Log_2", out)
    shutil.copy(logs / "Log_3" / "DVC" / "memory.mp4", logs / "Log_3" / "again.mp4")
    video(logs / "DVC__memory.mp4", 4, seed=9)
    shutil.copytree(out, tmp_path / "alone")
    run(logs, tmp_path / "alone")
    for rank in random.Random(seed).sample(range(4), 4):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "4")
        run(logs, out)
    assert clips(out) == clips(tmp_path / "alone")
    assert tree(out) == tree(tmp_path / "alone")
    assert len(clips(out)) == 4
