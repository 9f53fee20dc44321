"""RGB masks to class ids, with a count of every colour that is not in the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
NO_CLASS = -1
SHOWN = 5


class ColourTable:
    """Colours of classes, RGB of each class id, 0 first; counts pixels of ``unknown`` colours and all ``decoded`` ones."""

    def __init__(self, colours: Sequence[Colour]) -> None:
        if len(set(colours)) < len(colours):
            raise ValueError(f"colours must differ from each other, got {list(colours)}")
        self._colours = np.array(colours, dtype=np.int64)
        self.unknown: Counter[Colour] = Counter()
        self.decoded = 0

    def ids(self, pixels: NDArray[np.uint8], nearest: bool) -> NDArray[np.int64]:
        """Class ids [H, W] of an RGB mask [H, W, 3]; an unknown colour is NO_CLASS, or the class of the ``nearest`` one."""
        keys = pixels.astype(np.int64) @ (1 << 16, 1 << 8, 1)
        found, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
        colours = np.stack([found >> 16, found >> 8 & 255, found & 255], 1)
        distance = ((colours[:, None] - self._colours) ** 2).sum(-1)
        ids, unknown = distance.argmin(1), distance.min(1) > 0
        self.decoded += keys.size
        for (red, green, blue), count in zip(colours[unknown].tolist(), counts[unknown].tolist(), strict=True):
            self.unknown[red, green, blue] += count
        return np.where(unknown & (not nearest), NO_CLASS, ids)[places].reshape(keys.shape)

    def findings(self, consequence: str) -> list[str]:
        """One sentence about the unknown colours met so far, or nothing."""
        if not self.unknown:
            return []
        total = sum(self.unknown.values())
        most = ", ".join(f"{colour} {count} px" for colour, count in self.unknown.most_common(SHOWN))
        return [
            f"{total} of {self.decoded} mask pixels ({total / self.decoded:.2%}) have one of {len(self.unknown)} "
            f"unknown colours and {consequence}; most often {most}"
        ]
