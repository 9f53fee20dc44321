"""Files of recorders: anamorphic, interlaced, cut by edit lists, of several tracks, with a bad picture among good ones."""

from __future__ import annotations

import json
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
from footage import SMALL_SHARDS, frames_of, write

from laparoflow.video.cache import FrameCache
from laparoflow.video.decode import DecodeReport, Source, VideoError
from laparoflow.video.prepare import prepare
from laparoflow.video.settings import PrepareSettings

FAST = replace(SMALL_SHARDS, min_motion=0.0, find_border=False, drop_bad_frames=False)


def test_anamorphic_video_is_stored_in_square_pixels(tmp_path):
    """A round border in a frame that was squashed to 45/64 of its width is found as a circle."""
    y, x = np.mgrid[0:144, 0:180]
    inside = np.hypot((x - 89.5) * 64 / 45, y - 71.5) < 68
    noise = np.random.default_rng(0).integers(60, 255, (6, 144, 180, 3))
    images = np.where(inside[..., None], noise, 0).astype(np.uint8)
    path = write(tmp_path / "a.mp4", images, **{"x264-params": "sar=64/45"})
    assert (Source(path).info.height, Source(path).info.width) == (144, 256)
    assert next(Source(path).frames()).rgb().shape == (144, 256, 3)
    report = prepare([path], tmp_path / "cache", replace(FAST, find_border=True), progress=False)
    x, y, radius = report.clips[0].border["circle"]
    assert (x, y, radius) == pytest.approx((128, 71.5, 68), abs=3)
    assert "not square: 180 x 144 is read as 256 x 144" in report.notes["a"][0]


def test_frames_that_an_edit_list_cuts_away_do_not_count(tmp_path):
    """The start is cut within a group of pictures, without encoding again, as by ``ffmpeg -ss -c copy``."""
    whole = write(tmp_path / "whole.mp4", frames_of(28), bf="0", g="28")
    path = tmp_path / "cut.mp4"
    with av.open(str(whole)) as read, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.pts -= 3 * 512
                packet.dts -= 3 * 512
                packet.stream = stream
                written.mux(packet)
    with av.open(str(path)) as container:
        assert sum(packet.is_discard for packet in container.demux(video=0)) == 3
    report = DecodeReport()
    assert len(list(Source(path).frames(report))) == 25
    assert (report.expected, report.problem) == (25, None)


def test_the_best_of_several_tracks_or_the_one_that_is_named(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        small, large = container.add_stream("libx264", rate=1), container.add_stream("libx264", rate=25)
        small.width, small.height, large.width, large.height = 32, 24, 128, 96
        small.pix_fmt = large.pix_fmt = "yuv420p"
        images = frames_of(40)
        for stream, few in ((small, images[:2, ::4, ::4]), (large, images)):
            for image in few:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            container.mux(stream.encode())
    report = prepare([path], tmp_path / "cache", FAST, progress=False)
    assert report.frames == 39
    assert "video track 1 of 2 is read (128 x 96 pixels, 25 frames per second)" in report.notes["a"][0]
    assert Source(path, PrepareSettings(video_stream=0)).info.width == 32
    with pytest.raises(VideoError, match=r"video_stream must be in \[0, 2\)"):
        Source(path, PrepareSettings(video_stream=2))


def test_interlaced_video_is_deinterlaced_where_it_is_flagged(tmp_path):
    """A bar that moves 8 pixels from field to field is combed; whole frames are not."""
    images = np.full((10, 96, 128, 3), 40, np.uint8)
    for number, image in enumerate(images):
        for field in (0, 1):
            image[field::2, (left := 10 + 8 * (2 * number + field) % 90) : left + 12] = 220
    path = write(tmp_path / "a.mp4", images, flags="+ildct+ilme", **{"x264-params": "tff=1", "crf": "4"})

    def combing(frame):
        rows = frame.rgb()[8:-8, :, 0].astype(np.float32)
        return np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean()

    plain, whole = Source(path, PrepareSettings(deinterlace="never")), Source(path)
    before, after = list(plain.frames()), list(whole.frames())
    assert [frame.index for frame in after] == list(range(10))
    assert [frame.time for frame in after] == pytest.approx([frame.time for frame in before])
    assert max(map(combing, after)) < 0.3 * min(map(combing, before))
    assert whole.notes == ["interlaced, deinterlaced by bwdif"]
    assert plain.notes == ["interlaced, and left as it is"]
    unflagged = write(tmp_path / "b.mp4", images)
    assert Source(unflagged).notes == ["looks interlaced, though the file does not say so; --deinterlace always mends it"]
    assert Source(write(tmp_path / "c.mp4", images[:, ::2].repeat(2, 1))).notes == []  # whole frames
    assert Source(unflagged, PrepareSettings(deinterlace="always")).notes == ["deinterlaced by bwdif"]


def parts(tmp_path, sizes):
    """MPEG-TS whose frame size changes: 8 frames of each (height, width)."""
    data = b""
    for number, (height, width) in enumerate(sizes):
        images = np.stack([cv2.resize(image, (width, height)) for image in frames_of(8, number)])
        data += write(tmp_path / "part.ts", images).read_bytes()
    (tmp_path / "a.ts").write_bytes(data)
    return tmp_path / "a.ts"


def test_a_change_of_the_frame_size_begins_a_new_part(tmp_path):
    report = prepare([parts(tmp_path, [(96, 128), (48, 64)])], tmp_path / "cache", FAST, progress=False)
    kept = [frame.frame for frame in FrameCache.open(tmp_path / "cache")]
    assert kept == [*range(7), *range(8, 15)]
    assert any("frame size changes to 64 x 48 at frame 8" in note for note in report.notes["a"])


def test_frames_of_another_shape_are_damaged(tmp_path):
    report = prepare([parts(tmp_path, [(96, 128), (96, 64)])], tmp_path / "cache", FAST, progress=False)
    assert [frame.frame for frame in FrameCache.open(tmp_path / "cache")] == list(range(7))
    assert report.clips[0].report["damaged"] == list(range(8, 16))


@pytest.mark.parametrize("fault", ["half", "size"])
@pytest.mark.parametrize("place", [0, 5])
def test_one_bad_picture_among_many_costs_itself_alone(tmp_path, fault, place):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, image in enumerate(frames_of(12)):
        cv2.imwrite(str(folder / f"{number:02}.png"), image)
    bad = folder / f"{place:02}.png"
    if fault == "half":
        bad.write_bytes(bad.read_bytes()[:40])
    else:
        cv2.imwrite(str(bad), np.zeros((40, 40, 3), np.uint8))
    for gap, count in ((1, 10 if place == 0 else 4 + 5), (2, 9 if place == 0 else 3 + 4)):
        cache = tmp_path / f"cache_{gap}"
        report = prepare([folder], cache, replace(FAST, gaps=(gap,)), progress=False)
        assert report.clips[0].report["damaged"] == [place]
        frames = [frame.frame for frame in FrameCache.open(cache)]
        assert len(frames) == count
        assert not [frame for frame in frames if frame <= place <= frame + gap]
        assert f"{place:02}.png" in json.loads((cache / "report.json").read_text())["notes"]["in"][0]
