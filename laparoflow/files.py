"""Files that are either complete or not there (temporary file, fsync, rename), and pictures from files."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DiskFullError(OSError):
    """The disk (or quota) is full; what was finished before is kept."""


def _lock(file: BinaryIO, wait: bool) -> bool:
    """Lock an open file; False where another process has it, or the file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` in this block; other processes wait for it."""
    with open(path, "ab") as file:
        _lock(file, wait=True)
        yield


def _open_owned(partial: Path) -> BinaryIO:
    """Open a new file, locked as long as it is open: a process that lives owns it."""
    while True:
        file = open(partial, "wb")  # noqa: SIM115 (the caller closes it)
        _lock(file, wait=True)
        if partial.exists():  # else it was taken for a leftover before it was locked
            return file
        file.close()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files below a folder that no living process owns."""
    for partial in folder.rglob(".*.partial"):
        try:
            with open(partial, "r+b") as file:
                if _lock(file, wait=False):
                    partial.unlink()
        except OSError:  # finished or removed by now
            continue


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """A binary file, open for writing, that replaces ``path`` when the block ends without an error; its folder must exist.

    Raises:
        DiskFullError: when the disk is full; the temporary file is removed and ``path`` is as it was.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with _open_owned(partial) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            text = f"disk full while writing ({free / 1e6:.0f} MB free); finished work is kept"
            raise DiskFullError(error.errno, text, str(path)) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path``, for what writes by name; its file replaces ``path`` when the block ends without an error."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file atomically, making its folder where needed; returns ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(content)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write text as UTF-8, atomically; returns ``path``."""
    return write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> Path:
    """Write readable JSON, atomically; returns ``path``; a ValueError for NaN or infinity, which are not JSON."""
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def shown(path: Path | str) -> str:
    """A path that can be printed and written as UTF-8, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture file as RGB, uint8 [H, W, 3], upright as its EXIF orientation asks; of 16 bits the upper 8.

    A ValueError names one that is missing, damaged or no picture.
    """
    import cv2
    import numpy as np

    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ValueError(f"cannot read image {shown(path)}: {error.strerror}") from error
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if pixels is None:
        raise ValueError(f"cannot read image {shown(path)}: not an image or damaged")
    return np.asarray(pixels, np.uint8)


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [H, W, 3] (or [H, W]) as PNG, a large one without the slow search for the smallest file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=picture.size < 1 << 19)
    return buffer.getvalue()


def write_png(path: Path, picture: NDArray[np.uint8]) -> Path:
    """Write a picture uint8 [H, W, 3] as PNG, atomically; returns ``path``."""
    return write_bytes(path, png_bytes(picture))


def try_writing(option: str, path: Path) -> None:
    """Refuse a file or a folder, there or not, that cannot be written, before hours of work whose result would go there."""
    for place in (path, *path.absolute().parents):
        if place.exists() and (place.is_dir() or place != path):
            break
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(f"{option}: cannot write {path}: {error.strerror or error} ({place})") from error
