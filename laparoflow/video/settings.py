"""Settings that decide what a cache contains. Anything that does not change its bytes is not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from laparoflow.bounds import check_choices, check_numbers


@dataclass(frozen=True)
class PrepareSettings:
    """What is taken from each video and how its flow is found.

    "Source frames" are frames of the file as decoded; "pixels" are pixels of the cached, resized frame.

    Attributes:
        height, width: size of the cached frames; with one of them the other follows the aspect, with both the
            frame is scaled to exactly that size; with neither ``short_side`` decides.
        short_side: shorter side of the cached frames when neither height nor width is given; None keeps the
            size. Frames are never enlarged by it.
        frame_rate: frames per second to keep; None keeps every source frame. Flow is found over source frames.
        pattern: takes the files of folders whose path ends so (``*_left.avi``, ``Raw/*.jpg``) and no others, in place of
            the rules that tell frames from masks; None keeps to the rules.
        video_stream: which of a file's video tracks, from 0; None takes the one with the most pixels a second.
        deinterlace: "flagged" deinterlaces where the file says that it is interlaced; "always" or "never".
        image_rate: frame rate of image sequences, which carry none.
        gaps: distances from a frame to the flow's target frame, in source frames, in increasing order; a negative
            one leads to an earlier frame.
        gap_choice: "first_moving" keeps a frame with the first gap that shows enough motion; "stack" with the flows over all
            gaps (two channels a gap), valid where all of them are.
        min_motion: motion within the frame (see ``laparoflow.video.motion.relative_motion``) in pixels below
            which a frame is left out, as flow then says nothing about what belongs together; 0 keeps all.
        camera_motion: "keep" stores flow as found; "similarity" or "affine" subtracts the motion of that kind
            that most of the frame follows.
        drop_bad_frames: leave out black frames, frozen frames and pairs on both sides of a scene cut.
        flow_method: "dis" (OpenCV), "raft" (torchvision, with ``flow_weights``), or "precomputed" (``flow_folder``).
        dis_preset: accuracy of DIS; "fine" is worth its time on frames below some 200 pixels.
        flow_stride: distance in pixels between the stored flow vectors; None takes the grid on which the estimator
            works: 1 for DIS "fine" and for precomputed flow, else 2.
        jpeg_quality: of the stored frames, 1 to 100.
        flow_weights: file with the state dict of torchvision's raft_small or raft_large.
        flow_folder: folder with precomputed flow, see ``laparoflow.video.precomputed``.
        consistency_relative, consistency_absolute: forward and backward flow f, b agree where
            |f + b|^2 <= relative * (|f|^2 + |b|^2) + absolute, in square pixels.
        find_border: detect a circular (or letterbox) border and mark it invalid.
        crop_border: also crop to the bounding box of what the border leaves.
        border_margin: pixels by which the visible circle is shrunk.
        shard_megabytes: size of a shard, which is the unit that is written, verified and resumed.
    """

    height: int | None = None
    width: int | None = None
    short_side: int | None = 240
    frame_rate: float | None = 5.0
    pattern: str | None = None
    video_stream: int | None = None
    deinterlace: Literal["flagged", "always", "never"] = "flagged"
    image_rate: float = 25.0
    gaps: tuple[int, ...] = (1, 2, 4)
    gap_choice: Literal["first_moving", "stack"] = "first_moving"
    min_motion: float = 0.5
    camera_motion: Literal["keep", "similarity", "affine"] = "keep"
    drop_bad_frames: bool = True
    flow_method: Literal["dis", "raft", "precomputed"] = "dis"
    dis_preset: Literal["ultrafast", "fast", "medium", "fine"] = "medium"
    flow_stride: int | None = None
    jpeg_quality: int = 95
    flow_weights: str | None = None
    flow_folder: str | None = None
    consistency_relative: float = 0.01
    consistency_absolute: float = 0.5
    find_border: bool = True
    crop_border: bool = True
    border_margin: float = 4.0
    shard_megabytes: float = 64.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gaps", tuple(self.gaps))
        check_choices(self)
        check_numbers(self, "height width short_side", low=16)
        check_numbers(self, "frame_rate image_rate shard_megabytes", above=0)
        check_numbers(self, "min_motion consistency_relative consistency_absolute border_margin", low=0)
        check_numbers(self, "jpeg_quality", low=1, high=100)
        if not self.gaps or 0 in self.gaps or list(self.gaps) != sorted(set(self.gaps)):
            raise ValueError(f"gaps must be whole numbers other than 0 in increasing order, got {self.gaps}")
        if self.gap_choice == "stack" and len(self.gaps) > 4:
            raise ValueError(f"gaps must be at most 4 where stacked (a guide has up to 8 channels), got {self.gaps}")
        if self.flow_method == "precomputed" and len(self.gaps) > 1:
            raise ValueError(f"gaps must be the one gap of the precomputed flow, got {self.gaps}")
        if self.flow_stride not in (1, 2, 4, None):
            raise ValueError(f"flow_stride must be 1, 2, 4 or None, got {self.flow_stride}")
        for name, method in (("flow_weights", "raft"), ("flow_folder", "precomputed")):
            if (getattr(self, name) is not None) != (self.flow_method == method):
                raise ValueError(
                    f"{name} must be given with flow_method={method!r} and only then, "
                    f"got {getattr(self, name)!r} with flow_method={self.flow_method!r}"
                )

    @property
    def stored_stride(self) -> int:
        """``flow_stride``, or the estimator's own grid."""
        own = 1 if self.flow_method == "precomputed" or (self.flow_method == "dis" and self.dis_preset == "fine") else 2
        return self.flow_stride or own

    @property
    def flow_channels(self) -> int:
        """Channels of a sample's flow."""
        return 2 * len(self.gaps) if self.gap_choice == "stack" else 2

    def sample_bytes(self, height: int, width: int) -> int:
        """About what one kept frame of that size takes in the cache, as measured on laparoscopic video."""
        picture = 0.3 * 1.2 ** ((self.jpeg_quality - 95) / 3)
        return int(height * width * (picture + self.flow_channels * 0.85 / self.stored_stride**2)) + 1024

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """Size (H, W) of the cached frame for a (cropped) source frame of the given size."""
        if self.height and self.width:
            return self.height, self.width
        if self.height:
            return self.height, max(1, round(width * self.height / height))
        if self.width:
            return max(1, round(height * self.width / width)), self.width
        if self.short_side and self.short_side < min(height, width):
            scale = self.short_side / min(height, width)
            return max(1, round(height * scale)), max(1, round(width * scale))
        return height, width
