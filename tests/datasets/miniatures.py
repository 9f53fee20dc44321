"""Small data sets in the original layouts, written by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

GREYS = (50, 11, 21, 13, 12, 31, 23, 24, 25, 32, 22, 33, 5)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8), mode).save(path)


def cholecseg8k(root: Path, videos: tuple[int, ...] = (1, 12, 17), frames: int = 4) -> None:
    """Grey values in vertical stripes, one column of 0 and one of 255; the sparse `_endo_mask` is all wrong."""
    rng = np.random.default_rng(0)
    height, width = 12, 2 * len(GREYS) + 2
    for video in videos:
        folder = root / f"video{video:02d}" / f"video{video:02d}_00080"
        for frame in range(80, 80 + frames):
            grey = np.repeat(np.array([0, *GREYS, 255]), [1, *[2] * len(GREYS), 1])
            mask = np.broadcast_to(grey, (height, width))[..., None].repeat(3, axis=2)
            save(folder / f"frame_{frame}_endo.png", rng.integers(0, 255, (height, width, 3)))
            save(folder / f"frame_{frame}_endo_watershed_mask.png", mask)
            save(folder / f"frame_{frame}_endo_mask.png", np.full((height, width, 3), 7))
            save(folder / f"frame_{frame}_endo_color_mask.png", rng.integers(0, 255, (height, width, 3)))


def sznitman(root: Path) -> None:
    """Three frames: two tools, no tool, one tool; the fourth has no picture."""
    lines = {1175: ["10 30 67.5 5.8", "5 7 60.0 4.0"], 1176: [], 1177: ["11 31 66.2 5.9"], 1178: ["1 1 1 1"]}
    text = "<?xml version='1.0' encoding='utf-8'?> \n<tagDocument>\n<numberOfFrames>\n4\n</numberOfFrames>\n"
    for number, tools in lines.items():
        text += f"<frame>\n<PositionIndex> {number} </PositionIndex>\n"
        text += "".join(f"<tool> {line} </tool>\n" for line in tools) + "</frame>\n"
        if number != 1178:
            save(root / "trainData" / f"{number:06d}.jpg", np.full((20, 40, 3), 128))
    (root / "train.xml").write_text(text + "</tagDocument>", encoding="utf-8")
