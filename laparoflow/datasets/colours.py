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
        self._keys = _keys(np.array(colours, dtype=np.uint8).reshape(-1, 3))
        self._order = np.argsort(self._keys)
        self._colours = np.array(colours, dtype=np.int64)
        self.unknown: Counter[Colour] = Counter()
        self.decoded = 0

    def exact(self, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Class ids [H, W] of an RGB mask [H, W, 3]; NO_CLASS where the colour is not in the table, counted."""
        keys = _keys(pixels)
        place = np.searchsorted(self._keys[self._order], keys).clip(max=len(self._order) - 1)
        ids = self._order[place]
        known = self._keys[ids] == keys
        self.decoded += known.size
        if not known.all():
            colours, counts = np.unique(pixels[~known], axis=0, return_counts=True)
            for (red, green, blue), count in zip(colours.tolist(), counts.tolist(), strict=True):
                self.unknown[red, green, blue] += count
        return np.where(known, ids, NO_CLASS).astype(np.int64)

    def nearest(self, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Class ids [H, W]; a colour outside the table gets the class of the nearest one (Euclid), and is counted."""
        ids = self.exact(pixels)
        stray = ids == NO_CLASS
        if stray.any():
            colours, inverse = np.unique(pixels[stray], axis=0, return_inverse=True)
            distance = ((colours[:, None].astype(np.int64) - self._colours[None]) ** 2).sum(-1)
            ids[stray] = distance.argmin(1)[inverse.reshape(-1)]
        return ids

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


def _keys(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """One integer per RGB colour: [..., 3] -> [...]."""
    wide = pixels.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
