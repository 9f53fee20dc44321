"""What is decided about a clip before its frames are read: size, border, crop."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laparoflow.video.border import Border, detect_border
from laparoflow.video.decode import Source, SourceInfo, VideoError
from laparoflow.video.settings import PrepareSettings
from laparoflow.video.sources import images_in

BORDER_FRAMES = 16


@dataclass(frozen=True)
class ClipPlan:
    """The decisions about one clip; they depend on the source and the settings only.

    Attributes:
        name: folder of the clip in the cache.
        source, info, fingerprint: the video or image folder, what it is, and the hash that recognises it.
        border, crop: visible part of the source frame, and the box (left, top, right, bottom) of it that is cached.
        height, width: size of the cached frames.
    """

    name: str
    source: str
    fingerprint: str
    info: SourceInfo
    border: Border
    crop: tuple[int, int, int, int]
    height: int
    width: int


def fingerprint(path: Path, pattern: str | None = None) -> str:
    """Hash of a source's sizes and of samples of its content.

    A folder's frames (those that match the pattern, if there is one) count by name and size, and the first, the middle and
    the last one by their content: uncompressed images of different videos may have the same names and sizes.
    """
    digest = hashlib.sha256()
    block = 1 << 20
    if path.is_dir():
        files = sorted(images_in(path, pattern))
        for file in files:
            digest.update(f"{file.name}:{file.stat().st_size};".encode())
        for number in sorted({0, len(files) // 2, len(files) - 1}) if files else ():
            with open(files[number], "rb") as content:
                digest.update(content.read(block))
        return digest.hexdigest()
    size = path.stat().st_size
    digest.update(str(size).encode())
    with open(path, "rb") as content:
        for start in (0, max(0, size // 2 - block // 2), max(0, size - block)):
            content.seek(start)
            digest.update(content.read(block))
    return digest.hexdigest()


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan that work on a clip began with, as plain values; None where none began or its file is damaged."""
    try:
        plan = json.loads((folder / "plan.json").read_text())
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def plan_clip(path: Path, name: str, settings: PrepareSettings) -> ClipPlan:
    """Open a source, look at its size and border, and decide what is cached; a VideoError where it cannot be read."""
    source = Source(path, settings)
    try:
        content = fingerprint(path, settings.pattern)
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror or error}") from error
    info = source.info
    border = Border((0, 0, info.width, info.height))
    if settings.find_border:
        sampled = source.spread(BORDER_FRAMES)
        border = detect_border([frame for frame in sampled if frame.shape[:2] == (info.height, info.width)])
    crop = border.box if settings.crop_border else (0, 0, info.width, info.height)
    height, width = settings.frame_size(crop[3] - crop[1], crop[2] - crop[0])
    return ClipPlan(name, str(path), content, info, border, crop, height, width)
