"""What of the inputs is read: every file of a folder is a source, part of one, or named with the reason why not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from footage import SMALL_SHARDS, frames_of, video, write

from laparoflow.files import remove_leftovers, write_atomically
from laparoflow.video import sources
from laparoflow.video.cache import FrameCache
from laparoflow.video.decode import Source
from laparoflow.video.plan import fingerprint
from laparoflow.video.prepare import prepare
from laparoflow.video.settings import PrepareSettings
from laparoflow.video.sources import VideoError, find_sources, images_in

FAST = replace(SMALL_SHARDS, short_side=32, min_motion=0.0, find_border=False)


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.full((8, 8, 3), len(name), np.uint8))
    return folder


def relative(paths, root):
    return sorted(str(Path(path).relative_to(root)) for path in paths)


def test_every_file_of_a_folder_is_accounted_for(tmp_path):
    root = tmp_path / "in"
    a, b = video(root / "a.mp4", 2), video(root / "deep" / "b.avi", 2, codec="mpeg4")
    pictures(root, "poster.png")
    stills = pictures(root / "stills", "0.png", "1.png", "._0.png")
    pictures(root / "masks", "0.png", "1.png")
    pictures(root / "lone", "0.png")
    for name in ("notes.txt", ".DS_Store", "._a.mp4"):
        (root / name).write_bytes(b"x")
    outside = video(tmp_path / "outside" / "c.mp4", 2)
    (root / "linked").symlink_to(outside.parent)
    (root / "circle").symlink_to(root)
    (root / "gone.mp4").symlink_to(tmp_path / "nothing")
    found = find_sources([root])
    assert found.sources == [a, b, root / "linked" / "c.mp4", stills]
    assert {reason: relative(paths, root) for reason, paths in found.passed_over.items()} == {
        "hidden": [".DS_Store", "._a.mp4", "stills/._0.png"],
        "neither a video nor a picture by its ending; name a video itself to have it read": ["notes.txt"],
        "a picture in a folder of videos; take it with a pattern": ["poster.png"],
        sources.A_MASK: ["masks/0.png", "masks/1.png"],
        "a single picture makes no sequence": ["lone/0.png"],
        sources.LINK_AGAIN: ["circle"],
        "a link to nothing": ["gone.mp4"],
    }


@pytest.mark.parametrize("suffix", [".vob", ".ts", ".mts", ".m2ts", ".h264", ".mxf", ".dv"])
def test_endings_of_recorders(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert find_sources([tmp_path]).sources == [tmp_path / f"a{suffix}"]


def test_inputs_that_are_named(tmp_path):
    a = video(tmp_path / "a.mp4", 2)
    link = tmp_path / "linked.mp4"
    link.symlink_to(a)
    odd = tmp_path / "a.recording"
    shutil.copy(a, odd)
    assert find_sources([link, a, a, odd]).sources == [link, odd]
    with pytest.raises(VideoError, match="does not exist"):
        find_sources([tmp_path / "nowhere"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(VideoError, match="holds no video and no image sequence"):
        find_sources([tmp_path / "bare"])


def layouts(root):
    """Miniatures of the labelled sets that we read: folder of each, and what of it are frames."""
    clip = root / "cholec" / "video01" / "video01_00080"
    kinds = ("", "_mask", "_color_mask", "_watershed_mask")
    pictures(clip, *(f"frame_{n}_endo{kind}.png" for n in (80, 81) for kind in kinds))
    yield "cholec", ["video01/video01_00080/frame_80_endo.png", "video01/video01_00080/frame_81_endo.png"]
    for part in ("images", "masks"):
        pictures(root / "own" / part / "one", "0.png", "1.png")
    yield "own", ["images/one/0.png", "images/one/1.png"]
    pictures(root / "m2cai" / "train" / "images", "1.jpg", "2.jpg")
    pictures(root / "m2cai" / "train" / "groundtruth", "1_gt.png", "2_gt.png")
    yield "m2cai", ["train/images/1.jpg", "train/images/2.jpg"]
    pictures(root / "rigid" / "OP1" / "Raw", "img_01_raw.jpg", "img_02_raw.jpg")
    pictures(root / "rigid" / "OP1" / "Masks", "img_01_class.png", "img_02_class.png")
    yield "rigid", ["OP1/Raw/img_01_raw.jpg", "OP1/Raw/img_02_raw.jpg"]
    for name in ("Video", "Segmentation", "Left_Instrument_Segmentation"):
        video(root / "robotic" / "Dataset1" / f"{name}.avi", 2, codec="mpeg4")
    yield "robotic", ["Dataset1/Video.avi"]
    video(root / "rarp" / "video_1" / "video_left.avi", 2, codec="mpeg4")
    for part in ("rgb", "segmentation"):
        pictures(root / "rarp" / "video_1" / part, "0.png", "1.png")
    yield "rarp", ["video_1/video_left.avi"]
    video(root / "synthetic" / "videos" / "clip_000.mp4", 2)
    for part in ("images", "masks"):
        pictures(root / "synthetic" / part / "clip_000", "0.png", "1.png")
    yield "synthetic", ["videos/clip_000.mp4"]


def test_frames_of_labelled_sets_without_their_masks(tmp_path):
    for name, expected in layouts(tmp_path):
        found = find_sources([tmp_path / name])
        read = [path for source in found.sources for path in (images_in(source) if source.is_dir() else [source])]
        assert relative(read, tmp_path / name) == expected, name
        left = [path for paths in found.passed_over.values() for path in paths]
        every = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert sorted([*left, *map(str, read)]) == sorted(map(str, every)), name


def test_a_pattern_takes_what_it_matches(tmp_path):
    folder = pictures(tmp_path / "in" / "masks", "0.png", "1.png", "2.jpg", "0_mask.png")
    found = find_sources([tmp_path / "in"], "masks/*.png")
    assert found.sources == [folder]
    images = Source(folder, PrepareSettings(pattern="*.png")).images
    assert [path.name for path in images] == ["0.png", "0_mask.png", "1.png"]
    left = {reason: relative(paths, folder) for reason, paths in found.passed_over.items()}
    assert left == {"does not match the pattern": ["2.jpg"]}
    with pytest.raises(VideoError, match="does not match the pattern"):
        find_sources([tmp_path / "in"], "*.avi")


def test_a_cache_is_no_source(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for number, image in enumerate(frames_of(3)):
        cv2.imwrite(str(root / f"{number}.png"), image)
    for _ in range(2):
        report = prepare([root], root / "cache", FAST, progress=False)
    assert [clip.name for clip in report.clips] == ["in"]
    assert report.passed_over == {sources.A_CACHE: [str(root / "cache")]}
    assert json.loads((root / "cache" / "report.json").read_text())["passed_over"] == report.passed_over
    with pytest.raises(VideoError, match="is a cache of laparoflow"):
        find_sources([root / "cache"])


def test_files_of_a_file_manager_change_nothing(tmp_path):
    folder = pictures(tmp_path / "in", "0.png", "1.png")
    before = fingerprint(folder)
    for name in (".DS_Store", "._0.png"):
        (folder / name).write_bytes(b"x")
    assert fingerprint(folder) == before
    assert [path.name for path in Source(folder).images] == ["0.png", "1.png"]


def test_odd_names_are_read_and_shown(tmp_path, capsys):
    plain = video(tmp_path / "a.mp4", 3)
    inputs = [tmp_path / ("x" * 245 + ".mp4"), Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))]
    for seed, path in enumerate(inputs):
        shutil.move(video(plain, 3, seed), path)
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn.mp4"))
    bad.write_bytes(b"nothing")
    report = prepare([*inputs, bad], tmp_path / "cache", FAST, progress=False, skip_unreadable=True)
    assert len(report.prepared) == 2
    assert "caf_" in report.prepared
    assert [name.encode("utf-8") for name in report.unreadable]
    assert "gr\\xfcn.mp4" in next(iter(report.unreadable.values()))


def test_a_missing_index_is_named(tmp_path):
    path = video(tmp_path / "a.mp4", 4)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"moov") - 4])
    with pytest.raises(VideoError, match=r"a\.mp4: its index \(the moov atom\) is missing or damaged.*untrunc"):
        Source(path)
    assert len(list(Source(write(tmp_path / "b.mp4", frames_of(4), movflags="faststart")).frames())) == 4


CHILD = """
import sys
from pathlib import Path
from test_sources import FAST, prepare
print("ready", flush=True)
sys.stdin.readline()
prepare([Path(sys.argv[1])], Path(sys.argv[2]), FAST, progress=False)
"""


def test_two_runs_into_one_cache_at_once(tmp_path):
    """Videos of one name in different folders, as the jobs of an array have them, begin together."""
    children = []
    for number in range(3):
        path = video(tmp_path / f"log_{number}" / "memory.mp4", 12, seed=number)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        command = [sys.executable, "-c", CHILD, str(path), str(tmp_path / "cache")]
        pipe = subprocess.PIPE
        children.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment))
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=200)
        assert child.returncode == 0, errors
    cache = FrameCache.open(tmp_path / "cache")
    assert len({clip.fingerprint for clip in cache.clips}) == len(cache.clips) == 3
    writers = json.loads((tmp_path / "cache" / "report.json").read_text())["writers"]
    assert sorted(name for writer in writers for name in writer["prepared"]) == sorted(clip.name for clip in cache.clips)


def test_only_files_without_an_owner_are_removed(tmp_path):
    (tmp_path / ".dead.partial").write_bytes(b"x")
    with write_atomically(tmp_path / "whole") as file:
        file.write(b"content")
        remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert (tmp_path / "whole").read_bytes() == b"content"
