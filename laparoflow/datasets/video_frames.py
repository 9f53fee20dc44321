"""Single frames of a video file by their place in it, as labelled sets that ship videos number them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from laparoflow.datasets.reading import DatasetError


class VideoFrames:
    """Frames in the order in which the decoder gives them, uint8, the first being number 0; "rgb24" or "gray" pixels.

    Frames are decoded from where the last call stopped; going back starts the file again, since seeking is not exact
    in every container. Timestamps are not looked at, and pixels are those of the file, neither turned nor scaled.
    """

    def __init__(self, path: Path, pixels: str = "rgb24") -> None:
        self.path, self.pixels = path, pixels
        self._frames: Iterator[av.VideoFrame] | None = None
        self._number = -1
        self._frame: Any = None

    def __len__(self) -> int:
        """Number of frames that the file announces, or of its packets where it announces none."""
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        except (av.error.FFmpegError, OSError, IndexError) as error:
            raise DatasetError(f"cannot read the video {self.path}: {error}") from error

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """Pixels of one frame; a DatasetError where the file cannot be decoded up to it."""
        if self._frames is None or number < self._number:
            self._frames, self._number = self._decode(), -1
        try:
            while self._number < number:
                self._frame = next(self._frames)
                self._number += 1
            return np.asarray(self._frame.to_ndarray(format=self.pixels), np.uint8)
        except (av.error.FFmpegError, OSError, IndexError, StopIteration) as error:
            self._frames = None
            reason = f"it ends after {self._number + 1} frames" if isinstance(error, StopIteration) else error
            raise DatasetError(f"cannot read frame {number} of {self.path}: {reason}") from error

    def _decode(self) -> Iterator[av.VideoFrame]:
        with av.open(str(self.path)) as container:
            yield from container.decode(container.streams.video[0])
