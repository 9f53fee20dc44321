"""The files of labelled sets: pictures, masks, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laparoflow.files import read_picture

PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


class DatasetError(ValueError):
    """A data set on disk is not what its reader expects; the message names the file and what was expected."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture as `laparoflow prepare` reads it: RGB, uint8 [H, W, 3], upright as its EXIF orientation asks.

    An error is a DatasetError, as with the others here.
    """
    try:
        return read_picture(path)
    except ValueError as error:
        raise DatasetError(str(error)) from error


def read_colours(path: Path) -> NDArray[np.uint8]:
    """A mask as RGB, uint8 [H, W, 3], as it is stored: no EXIF orientation is applied to masks."""
    return _stored(path, "RGB")


def read_ids(path: Path) -> NDArray[np.int64]:
    """A mask of ids, int64 [H, W], as it is stored: one channel, a palette's indices, or equal channels beside alpha."""
    pixels = _stored(path).astype(np.int64)
    if pixels.ndim == 3:
        colours = pixels[..., :-1] if pixels.shape[-1] in (2, 4) else pixels
        if (colours != pixels[..., :1]).any():
            raise DatasetError(f"{path} is coloured; a mask of class ids has equal channels")
        pixels = pixels[..., 0]
    return pixels


def _stored(path: Path, mode: str | None = None) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.array(image if mode is None else image.convert(mode))
    except (OSError, SyntaxError) as error:  # Pillow reports some broken PNG files as SyntaxError
        raise DatasetError(f"cannot read the picture {path}: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {path} as JSON in UTF-8 or UTF-16: {error}") from error
