"""Pictures of a pretraining run, drawn from its cache: frames and their flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from laparoflow.report.files import png_bytes
from laparoflow.report.pictures import beside, flow_picture
from laparoflow.report.sections import Figure
from laparoflow.report.sources import Source

FRAMES = 3


def run_figures(source: Source) -> list[Figure]:
    """Figures of the run's cache; none when the cache is not where the run's settings say."""
    config = source.folder / "config.yaml"
    if not config.is_file():
        return []
    settings: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    data = settings.get("data")
    if not data or not Path(data).is_dir():
        return []
    from laparoflow.video.cache import FrameCache

    cache = FrameCache.open(Path(data), verify="sizes")
    chosen = [cache[int(i)] for i in np.linspace(0, len(cache) - 1, min(FRAMES, len(cache)))]
    rows = [beside([frame.image, flow_picture(frame.flow, valid=frame.valid)]) for frame in chosen]
    return [Figure("frame and its flow (hue: direction, depth: length, black: left out)", png_bytes(row)) for row in rows]
