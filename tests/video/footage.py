"""Small sources that the tests of laparoflow.video generate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from laparoflow.synthetic import SceneParameters, render_clip
from laparoflow.synthetic.dataset import write_video
from laparoflow.video.settings import PrepareSettings

SCENE = SceneParameters(height=96, width=128, wavelengths=(9.0, 7.0, 9.0))
SMALL_SHARDS = PrepareSettings(short_side=None, gaps=(1,), shard_megabytes=0.5)  # 5 frames a shard


def frames_of(count: int, seed: int = 0, scene: SceneParameters = SCENE) -> np.ndarray:
    """Rendered frames uint8 [T, H, W, 3]."""
    return render_clip(scene, count, seed).images


def video(path: Path, count: int = 12, seed: int = 0, codec: str = "libx264") -> Path:
    """A video of rendered frames."""
    write_video(path, frames_of(count, seed), 25, codec)
    return path


def tree(root: Path) -> dict[str, bytes]:
    """Content of every file below a folder except reports, by relative path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith("report")
    }
