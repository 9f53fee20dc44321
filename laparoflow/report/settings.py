"""Settings of `laparoflow view` and `laparoflow predict`; this module loads no implementation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laparoflow.bounds import check_numbers


@dataclass
class ViewSettings:
    """What a network sees in a video.

    Attributes:
        video: a video file or a folder of images.
        checkpoint: a run of ``laparoflow pretrain``, or one of its checkpoints.
        out: ``.mp4`` for a video with panels, ``.html`` for a page in which pixels are clicked.
        probe: a probe of that run, whose prediction is shown too.
        pixel: x and y, in pixels of the video's first frame, that all frames are compared with; null for the middle.
        frame_rate: frames a second of the source that are looked at; null for all.
        speed: how many times as fast as life the written video plays.
        frames: most frames that are looked at; null for all in a video, 12 spread over the source in a page.
        width: of a panel, in pixels.
        batch_size: frames in one pass of the network.
        device: where the network runs; ``auto`` takes a GPU where torch sees one.
        overwrite: replace an existing file.
    """

    video: Path
    checkpoint: Path
    out: Path
    probe: Path | None = None
    pixel: tuple[int, int] | None = None
    frame_rate: float | None = 10.0
    speed: float = 1.0
    frames: int | None = None
    width: int = 480
    batch_size: int = 8
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if Path(self.out).suffix not in (".mp4", ".html"):
            raise ValueError(f"out: expected a name ending in .mp4 or .html, got {self.out}")
        check_numbers(self, "frame_rate speed frames width batch_size", above=0)


@dataclass
class PredictSettings:
    """A probe's head on other pictures.

    Attributes:
        inputs: the run, the probe of it, then videos, images or folders of them.
        out: folder to write; must not exist, or be empty.
        labels: label budget of the head; null for the largest.
        seed: draw of labels of the head; null for the first.
        every: of a video, every how manieth frame.
        batch_size: pictures in one pass of the network.
        device: where the network runs; ``auto`` takes a GPU where torch sees one.
    """

    inputs: list[Path]
    out: Path
    labels: int | None = None
    seed: int | None = None
    every: int = 1
    batch_size: int = 8
    device: str = "auto"

    def __post_init__(self) -> None:
        if len(self.inputs) < 3:
            raise ValueError(f"inputs: expected a run, a probe and a video or image, got {len(self.inputs)} paths")
        check_numbers(self, "every batch_size", low=1)
