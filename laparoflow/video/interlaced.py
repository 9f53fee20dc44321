"""Whole frames from interlaced ones, whose lines were taken at two times, by FFmpeg's filter bwdif."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, groupby

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

COMBED_SHARE = 0.01
"""Share of combed pixels from which a frame looks interlaced."""
Stamped = tuple[int, av.VideoFrame, float | None]


def _graph(raw: av.VideoFrame) -> Graph:
    """A filter that gives one frame for each that it takes."""
    graph = Graph()
    source = graph.add_buffer(width=raw.width, height=raw.height, format=raw.format, time_base=raw.time_base)
    bwdif = graph.add("bwdif", "mode=send_frame:parity=auto:deint=all")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def _combed(grey: NDArray[np.int32]) -> float:
    """Share of pixels unlike the lines above and below (by 15 grey levels), which are alike (to 10)."""
    above, here, below = grey[:-2], grey[1:-1], grey[2:]
    return float((((here - above) * (here - below) > 225) & (np.abs(above - below) < 10)).mean())


def looks_interlaced(frames: Iterable[av.VideoFrame]) -> bool:
    """Whether some frame is combed between lines, far more than between columns, which noise and texture also are."""
    for raw in frames:
        grey = raw.to_ndarray(format="gray").astype(np.int32)
        lines = _combed(grey)
        if lines > COMBED_SHARE and lines > 4 * _combed(grey.T):
            return True
    return False


def deinterlaced(frames: Iterable[Stamped]) -> Iterator[Stamped]:
    """Deinterlace frames; their places and times stay. The filter begins anew where the size changes."""
    for _, alike in groupby(frames, lambda item: (item[1].width, item[1].height, item[1].format.name)):
        first = next(alike)
        graph, waiting = _graph(first[1]), deque[tuple[int, float | None]]()
        for index, raw, stamp in chain([first], alike):
            waiting.append((index, stamp))
            raw.pts = index  # the filter needs stamps that grow
            graph.vpush(raw)
            yield from _pull(graph, waiting)
        graph.vpush(None)
        yield from _pull(graph, waiting)


def _pull(graph: Graph, waiting: deque[tuple[int, float | None]]) -> Iterator[Stamped]:
    """What the filter gives by now, with places and times of the frames that wait."""
    while waiting:
        try:
            whole = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        index, stamp = waiting.popleft()
        yield index, whole, stamp
