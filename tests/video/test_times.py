"""Time stamps: containers without presentation times, real restarts, and how ffprobe reads the same files."""

from __future__ import annotations

import json
import shutil
import subprocess

import av
import numpy as np
import pytest
from footage import frames_of, write
from test_samples import DATA

from laparoflow.video.decode import DecodeReport, Source
from laparoflow.video.prepare import prepare
from laparoflow.video.settings import PrepareSettings
from laparoflow.video.times import Clock


def shape(folder, kind):
    """One of the four shapes that users bring: the file, its frames uint8 [T, H, W, 3], and where its times restart."""
    images = frames_of(24)
    if kind == "avi_h264":
        return write(folder / "b.avi", images, bf="3"), images, []
    if kind == "avi_mjpeg":
        return write(folder / "m.avi", images, "mjpeg", "yuvj420p"), images, []
    if kind == "raw_h264":
        return write(folder / "b.h264", images, muxer="h264", bf="3"), images, []
    first, second = write(folder / "1.ts", images, bf="3"), write(folder / "2.ts", frames_of(24, 1), bf="3")
    (folder / "reset.ts").write_bytes(first.read_bytes() + second.read_bytes())
    return folder / "reset.ts", np.concatenate([images, frames_of(24, 1)]), [24]


SHAPES = ["avi_h264", "avi_mjpeg", "raw_h264", "ts_reset"]


@pytest.mark.parametrize("kind", SHAPES)
def test_every_frame_at_its_time_and_in_its_place(tmp_path, kind):
    path, truth, restarts = shape(tmp_path, kind)
    report = DecodeReport()
    frames = list(Source(path).frames(report))
    assert [frame.index for frame in frames] == list(range(len(truth)))
    assert np.diff([frame.time for frame in frames]) == pytest.approx(np.full(len(truth) - 1, 0.04), abs=1e-6)
    assert report.restarts == restarts
    for frame in frames:
        assert np.abs(truth.astype(np.float32) - frame.rgb()).mean(axis=(1, 2, 3)).argmin() == frame.index


@pytest.mark.parametrize("kind", SHAPES)
def test_times_are_those_of_ffprobe(tmp_path, kind):
    """Where ffprobe has a time and has not gone back: up to the first restart."""
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed")
    path, _, restarts = shape(tmp_path, kind)
    command = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_frames", "-of", "json", str(path)]
    probed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["frames"]
    frames = list(Source(path).frames())
    assert len(frames) == len(probed)
    times = [float(frame.get("best_effort_timestamp_time", "nan")) for frame in probed]
    for frame, time in list(zip(frames, times, strict=True))[: min(restarts, default=None)]:
        assert np.isnan(time) or frame.time == pytest.approx(time, abs=1e-6)
    assert np.isfinite(times).sum() > 20 or kind == "raw_h264"  # a raw stream has no times


@pytest.mark.parametrize(
    ("stamps", "times", "restarts"),
    [
        ([0.0, 0.1, 0.2, 0.3], [0.0, 0.1, 0.2, 0.3], []),
        ([5.0, 5.1, 9.0, 9.1], [5.0, 5.1, 9.0, 9.1], []),  # a gap is a gap
        ([0.5, 0.6, 0.5, 0.6], [0.5, 0.6, 0.7, 0.8], [2]),
        ([2.0, 2.1, -1.0, -0.9, -1.0], [2.0, 2.1, 2.2, 2.3, 2.4], [2, 4]),
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.1, 0.2, 0.3], []),  # repeated, not started again
        ([None, None, None, None], [0.0, 0.1, 0.2, 0.3], []),
        ([0.5, None, 0.7, None], [0.5, 0.6, 0.7, 0.8], []),
    ],
)
def test_times_grow_whatever_the_time_stamps_do(stamps, times, restarts):
    clock = Clock(0.1)
    got = [clock(index, stamp) for index, stamp in enumerate(stamps)]
    assert [time for time, _ in got] == pytest.approx(times)
    assert [index for index, (_, again) in enumerate(got) if again] == restarts


@pytest.mark.slow
def test_a_real_avi_gives_what_the_same_pictures_give_as_mp4(tmp_path):
    path = DATA / "real" / "endovis15_robotic" / "Dataset1" / "Video.avi"
    if not path.exists():
        pytest.skip(f"no real recording at {path}; set LAPAROFLOW_SHARED_DATA")
    with av.open(str(tmp_path / "same.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        for frame in Source(path).frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.rgb(), format="rgb24")))
        container.mux(stream.encode())
    settings = PrepareSettings(short_side=144, frame_rate=None)
    avi = prepare([path], tmp_path / "avi", settings, progress=False)
    mp4 = prepare([tmp_path / "same.mp4"], tmp_path / "mp4", settings, progress=False)
    assert (avi.problems, mp4.problems) == ({}, {})
    assert mp4.frames > 200
    assert abs(avi.frames - mp4.frames) <= 0.02 * mp4.frames
