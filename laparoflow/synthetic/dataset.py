"""The synthetic laparoscopy as a data set on disk.

Layout under ``root``::

    dataset.json                    see below
    videos/clip_000.mp4             the clip as a real video file (lossy, as any video)
    images/clip_000/000000.png      RGB frames as rendered, lossless
    masks/clip_000/000000.png       8 bit, one channel: class index, 255 = ignore (outside the visible circle)
    keypoints/clip_000.json         {"keypoints": [names], "frames": {"000000": [[x, y, visibility], ...],
    ...}} flow/clip_000.npz               "flow": float16 [T, 2, H, W], true (dx, dy) in pixels from frame t
    to t + 1

``dataset.json`` holds ``format``, ``version``, ``classes``, ``ignore_index``, ``keypoints``, ``frame_rate``,
``height``, ``width``, ``parameters`` (of the scene) and ``clips``, a list of {name, video, frames, seed}.
Images and masks exist for every ``label_every``-th frame, numbered as in the video; visibility is 0 absent or
2 visible. It is written last: a folder that has it is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laparoflow.files import replacing, write_atomically, write_json
from laparoflow.synthetic.parameters import CLASSES, IGNORE_INDEX, KEYPOINTS, SceneParameters
from laparoflow.synthetic.scene import SyntheticClip, render_clip

FORMAT, VERSION = "laparoflow-synthetic", 1


def write_video(
    path: Path,
    images: Iterable[NDArray[np.uint8]],
    frame_rate: int | Fraction,
    codec: str = "libx264",
    quality: int = 16,
    size: Sequence[int] | None = None,
) -> None:
    """Encode frames uint8 [H, W, 3] to a video file, whose suffix chooses the container.

    The codec is an encoder that PyAV's build has, ``libx264`` or ``mpeg4``; the quality is the constant rate factor of the
    one or the quantiser of the other, smaller is better. Frames that come one by one need their size (H, W).

    Raises:
        ValueError: for an odd height or width.
    """
    height, width = np.asarray(images).shape[1:3] if size is None else size
    if height % 2 or width % 2:
        raise ValueError(f"images must have an even height and width, got {height} x {width}")
    options = {"crf": str(quality)} if codec == "libx264" else {"qmin": "2", "qmax": str(max(2, quality // 4))}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, av.open(str(partial), "w") as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=frame_rate, options=options))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())


def _write_labels(root: Path, name: str, clip: SyntheticClip, label_every: int) -> None:
    for kind in ("images", "masks"):
        (root / kind / name).mkdir(parents=True, exist_ok=True)
    frames = {}
    for t in range(0, len(clip.images), label_every):
        for kind, pixels in (("images", clip.images), ("masks", clip.masks)):
            Image.fromarray(pixels[t]).save(root / kind / name / f"{t:06d}.png", compress_level=1)
        frames[f"{t:06d}"] = [[round(float(value), 3) for value in point] for point in clip.keypoints[t]]
    (root / "keypoints").mkdir(exist_ok=True)
    write_json(root / "keypoints" / f"{name}.json", {"keypoints": list(KEYPOINTS), "frames": frames})


def write_dataset(
    root: Path | str,
    params: SceneParameters,
    videos: int,
    frames: int,
    seed: int = 0,
    *,
    label_every: int = 1,
    flow: bool = True,
) -> Path:
    """Render clips and write them in the layout above; the same arguments give the same data set.

    Args:
        root, params: folder to create, which may exist if it is empty, and look and motion of the scenes.
        videos, frames: number of clips, and frames of each.
        seed: clip n uses seed ``seed * 1000 + n``.
        label_every: write image, mask and key points of every n-th frame; the video has all frames.
        flow: whether the true flow is written (4 bytes per pixel and frame).

    Returns:
        The path of ``dataset.json``.

    Raises:
        ValueError: for counts below 1 or a folder that already has something in it.
    """
    root = Path(root)
    for name, value in (("videos", videos), ("frames", frames), ("label_every", label_every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"root must be a new or empty folder, got {root}, which exists and is not empty")
    root.mkdir(parents=True, exist_ok=True)
    clips = []
    for number in range(videos):
        name = f"clip_{number:03d}"
        clip_seed = seed * 1000 + number
        clip = render_clip(params, frames, clip_seed)
        write_video(root / "videos" / f"{name}.mp4", clip.images, params.frame_rate)
        _write_labels(root, name, clip, label_every)
        if flow:
            (root / "flow").mkdir(exist_ok=True)
            with write_atomically(root / "flow" / f"{name}.npz") as file:
                np.savez(file, flow=clip.flow.astype(np.float16))
        clips.append({"name": name, "video": f"videos/{name}.mp4", "frames": frames, "seed": clip_seed})
    description = {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(CLASSES),
        "ignore_index": IGNORE_INDEX,
        "keypoints": list(KEYPOINTS),
        **{name: getattr(params, name) for name in ("frame_rate", "height", "width")},
        "label_every": label_every,
        "parameters": asdict(params),
        "clips": clips,
    }
    return write_json(root / "dataset.json", description)
