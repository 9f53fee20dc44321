"""Luma of a recording counts from 16 to 235 or from 0 to 255, as its stream says. PyAV before 17 took the first for both."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from laparoflow.video.decode import Source

LIMITED, FULL = 1, 2


def grey_clip(path: Path, luma: int, color_range: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.color_range = color_range
        for index in range(3):
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane, value in zip(frame.planes, (luma, 128, 128), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.color_range, frame.pts, frame.time_base = color_range, index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("color_range", "wanted"), [(LIMITED, (200 - 16) * 255 / 219), (FULL, 200)])
def test_grey_keeps_the_value_that_its_range_gives_it(tmp_path: Path, color_range: int, wanted: float) -> None:
    frame = next(iter(Source(grey_clip(tmp_path / "grey.mkv", 200, color_range)).frames()))
    assert np.abs(frame.rgb().astype(float) - wanted).max() <= 1
