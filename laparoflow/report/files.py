"""Files that are either whole or not there: written beside, synced, then renamed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laparoflow.video.atomic import write_atomically


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes a file atomically, making its folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(content)
    return path


def write_json(path: Path, content: Any) -> Path:
    """Writes JSON atomically; NaN and infinity are refused (ValueError), since they are not JSON."""
    return write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [H, W, 3] (or [H, W]) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_png(path: Path, picture: NDArray[np.uint8]) -> Path:
    """Writes a picture uint8 [H, W, 3] as PNG, atomically."""
    return write_bytes(path, png_bytes(picture))
