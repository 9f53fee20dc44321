"""When a frame is shown: the file's stamps where they can be believed, and times that always grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import av

LOOK_AHEAD = 16  # frames after which the presentation times of AVI with B-frames have long contradicted themselves


def believed_stamps(frames: Iterable[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, av.VideoFrame, float | None]]:
    """Add to each (index, frame), as shown, its time in seconds by FFmpeg's best-effort rule; None without a stamp.

    The presentation time is believed while it has stepped back no more often than the decode time, and the decode time
    after that: containers such as AVI hold only decode times, and what then stands for presentation times is in
    disorder. Unlike FFmpeg we look ``LOOK_AHEAD`` frames ahead, so that the first frames are judged as the later ones.
    """
    waiting: deque[tuple[int, av.VideoFrame]] = deque()
    last: dict[str, int] = {}
    faults = {"pts": 0, "dts": 0}

    def stamp(raw: av.VideoFrame) -> float | None:
        believed = raw.pts if faults["pts"] <= faults["dts"] or "dts" not in last else raw.dts
        return None if believed is None or raw.time_base is None else float(believed * raw.time_base)

    for item in frames:
        for kind in faults:
            value = getattr(item[1], kind)
            if value is not None:
                faults[kind] += value <= last.get(kind, value - 1)
                last[kind] = value
        waiting.append(item)
        if len(waiting) > LOOK_AHEAD:
            index, raw = waiting.popleft()
            yield index, raw, stamp(raw)
    for index, raw in waiting:
        yield index, raw, stamp(raw)


class Clock:
    """Times that grow from frame to frame, by ``period`` seconds where there is no usable time stamp."""

    def __init__(self, period: float) -> None:
        self.period = period
        self.offset = 0.0
        self.index, self.last = -1, -period

    def __call__(self, index: int, stamp: float | None) -> tuple[float, bool]:
        """Time of a frame, and whether time stamps start again with it: a step back by more than a repeated stamp."""
        after_last = self.last + self.period * (index - self.index)
        time = after_last if stamp is None else stamp + self.offset
        again = self.index >= 0 and time <= self.last - self.period
        if self.index >= 0 and time <= self.last:
            self.offset += after_last - time
            time = after_last
        self.index, self.last = index, time
        return time, again
