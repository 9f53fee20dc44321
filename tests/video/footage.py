"""Small sources that the tests of laparoflow.video generate."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from laparoflow.synthetic import SceneParameters, render_clip
from laparoflow.synthetic.dataset import write_video
from laparoflow.video.settings import PrepareSettings

SCENE = SceneParameters(height=96, width=128, wavelengths=(9.0, 7.0, 9.0))
SMALL_SHARDS = PrepareSettings(short_side=None, frame_rate=None, gaps=(1,), shard_megabytes=0.05)  # 5 frames a shard


def frames_of(count: int, seed: int = 0, scene: SceneParameters = SCENE) -> np.ndarray:
    """Rendered frames uint8 [T, H, W, 3]."""
    return render_clip(scene, count, seed).images


def write(
    path: Path, images: np.ndarray, codec: str = "libx264", pixels: str = "yuv420p", muxer: str | None = None, **options: str
) -> Path:
    """A video of frames uint8 [T, H, W, 3] at 25 per second by any muxer, with options of the codec."""
    with av.open(str(path), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = images.shape[2], images.shape[1], pixels
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def video(path: Path, count: int = 12, seed: int = 0, codec: str = "libx264") -> Path:
    """A video of rendered frames."""
    write_video(path, frames_of(count, seed), 25, codec)
    return path


def joined_video(path: Path, parts: list[np.ndarray]) -> Path:
    """MPEG program streams of frames uint8 [T, H, W, 3] at 25 per second, joined as ``cat`` does: timestamps restart."""
    data = b""
    for images in parts:
        with av.open(str(path), "w", format="mpeg") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = images.shape[2], images.shape[1], "yuv420p"
            stream.bit_rate = 4_000_000
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        data += path.read_bytes()
    path.write_bytes(data)
    return path


def latin_titled_video(path: Path, count: int = 6) -> Path:
    """An AVI whose title is in Latin-1."""
    title = "Gallenbl\xe4se"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "?" * len(title)
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for image in frames_of(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert data.count(b"?" * len(title)) == 1
    path.write_bytes(data.replace(b"?" * len(title), title.encode("latin-1")))
    return path


def tree(root: Path) -> dict[str, bytes]:
    """Content of every file below a folder except reports, by relative path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith("report")
    }
