"""Decoding: every frame with its place and time, and clear words about what cannot be read."""

from __future__ import annotations

import struct

import av
import cv2
import numpy as np
import pytest
from footage import frames_of, joined_video, latin_titled_video, video

from laparoflow.video import decode
from laparoflow.video.decode import DecodeReport, Source, VideoError
from laparoflow.video.settings import PrepareSettings


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".avi", "mpeg4"), (".mkv", "libx264")])
def test_containers(tmp_path, suffix, codec):
    path = video(tmp_path / f"a{suffix}", 12, codec=codec)
    report = DecodeReport()
    source = Source(path)
    frames = list(source.frames(report))
    assert (source.info.height, source.info.width, source.info.frame_rate) == (96, 128, 25.0)
    assert [frame.index for frame in frames] == list(range(12))
    assert np.allclose([frame.time for frame in frames], np.arange(12) / 25, atol=2e-3)
    assert report.frames == 12
    assert report.problem is None
    truth = frames_of(12)
    for frame in frames:
        errors = np.abs(frame.rgb().astype(np.float32) - truth).mean(axis=(1, 2, 3))
        assert errors.argmin() == frame.index


def test_image_sequence_in_natural_order(tmp_path):
    truth = frames_of(12)
    for number, frame in enumerate(truth):
        cv2.imwrite(str(tmp_path / f"frame_{number}.png"), frame[..., ::-1])
    (tmp_path / "notes.txt").write_text("not an image")
    source = Source(tmp_path, PrepareSettings(image_rate=10.0))
    frames = list(source.frames())
    assert source.info.expected == 12
    assert [frame.time for frame in frames] == pytest.approx(np.arange(12) / 10)
    assert all(np.array_equal(frame.rgb(), truth[frame.index]) for frame in frames)


def test_truncated_video_gives_its_readable_part_and_says_so(tmp_path):
    whole = video(tmp_path / "whole.mkv", 40)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    report = DecodeReport()
    frames = list(Source(cut).frames(report))
    assert 5 < len(frames) < 38
    truth = frames_of(40)
    assert np.abs(frames[4].rgb().astype(np.float32) - truth[4]).mean() < 8
    assert report.problem is not None


def test_truncated_mp4_with_its_index_in_front(tmp_path):
    source, path = video(tmp_path / "a.mp4", 40), tmp_path / "fast.mp4"
    with av.open(str(source)) as read, av.open(str(path), "w", options={"movflags": "faststart"}) as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    report = DecodeReport()
    frames = list(Source(path).frames(report))
    assert 5 < len(frames) < 38
    assert report.expected == 40
    assert "of 40 announced frames" in str(report.problem)


def test_a_hole_in_the_middle_does_not_shift_what_follows(tmp_path):
    """Intra-only video: zero the packets of two frames; the others keep their index."""
    path = tmp_path / "intra.avi"
    truth = frames_of(12)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        for image in truth:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in (5, 6):
        position = data.find(b"\xff\xd8", packets[number][0])
        data[position : position + packets[number][1] - 16] = bytes(packets[number][1] - 16)
    path.write_bytes(bytes(data))
    report = DecodeReport()
    frames = list(Source(path).frames(report))
    assert set(report.damaged) == {5, 6}
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    for frame in frames:
        errors = np.abs(frame.rgb().astype(np.float32) - truth).mean(axis=(1, 2, 3))
        assert errors.argmin() == frame.index


def test_time_goes_on_where_timestamps_restart(tmp_path):
    path = joined_video(tmp_path / "joined.mpg", [frames_of(15, 0), frames_of(10, 1), frames_of(10, 2)])
    report = DecodeReport()
    frames = list(Source(path).frames(report))
    assert [frame.index for frame in frames] == list(range(35))
    assert np.diff([frame.time for frame in frames]) == pytest.approx(np.full(34, 0.04), abs=2e-3)
    assert report.restarts == [15, 25]
    assert [frame.part for frame in frames] == [0] * 15 + [1] * 10 + [2] * 10
    assert "timestamps restart at frame 15, 25" in str(report.problem)


def test_metadata_in_another_encoding_is_no_matter(tmp_path):
    assert len(list(Source(latin_titled_video(tmp_path / "latin.avi")).frames())) == 6


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xe4", 0, 1, "invalid"), ValueError("strange")])
def test_whatever_goes_wrong_the_file_is_named(tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    path = video(tmp_path / "odd.mp4", 4)
    source = Source(path)
    frame = next(source.frames())
    monkeypatch.setattr(decode, "_rgb", fail)
    for read in (frame.rgb, lambda: source.spread(2)):
        with pytest.raises(VideoError, match=r"odd\.mp4"):
            read()
    monkeypatch.setattr(decode, "_announced", fail)
    with pytest.raises(VideoError, match=r"odd\.mp4"):
        next(source.frames())
    monkeypatch.setattr(decode.av, "open", fail)
    with pytest.raises(VideoError, match=r"odd\.mp4"):
        Source(path)


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_pictures_stand_upright(tmp_path, matrix, turns):
    """The display matrix (a, b, c, d) in the track header of an MP4; turns are quarter turns counterclockwise."""
    path = video(tmp_path / "a.mp4", 4)
    lying = [frame.rgb() for frame in Source(path).frames()]
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    data[(start := data.index(b"tkhd") + 44) : start + 24] = struct.pack(">6i", a, b, 0, c, d, 0)
    path.write_bytes(data)
    source = Source(path)
    frames = list(source.frames())
    upright = [np.rot90(image, turns) for image in lying]
    assert (source.info.height, source.info.width) == upright[0].shape[:2]
    assert all(np.array_equal(frame.rgb(), image) for frame, image in zip(frames, upright, strict=True))
    assert all(image.shape == upright[0].shape for image in source.spread(2))
    other = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    other.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # OpenCV's default depends on its version
    _, seen = other.read()
    assert np.abs(seen[..., ::-1].astype(np.float32) - frames[0].rgb()).mean() < 3


def test_unreadable_sources_are_named(tmp_path):
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("noise.mp4", "empty.mp4", "folder", "absent.mp4"):
        with pytest.raises(VideoError, match=name.split(".")[0]):
            Source(tmp_path / name)


def test_zero_frames_and_no_video_stream(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream"):
        Source(path)
    none = tmp_path / "none.avi"
    with av.open(str(none), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    with pytest.raises(VideoError, match=r"none\.avi"):
        Source(none)


def test_damaged_image_is_named(tmp_path):
    (tmp_path / "000.png").write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"000\.png"):
        Source(tmp_path)


def test_frames_spread_over_the_video(tmp_path):
    path = video(tmp_path / "a.mp4", 30)
    spread = Source(path).spread(4)
    assert 1 <= len(spread) <= 4
    assert all(frame.shape == (96, 128, 3) for frame in spread)
