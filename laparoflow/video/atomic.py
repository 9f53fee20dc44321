"""Files that are either complete or not there: temporary file, fsync, rename."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


class DiskFullError(OSError):
    """The disk (or quota) is full; what was finished before is kept."""


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that replaces it when the block ends without an error.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        A binary file open for writing.

    Raises:
        DiskFullError: when the disk is full; the temporary file is removed and ``path`` is as it was.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            raise DiskFullError(
                error.errno,
                f"disk full while writing ({free / 1e6:.0f} MB free); finished work is kept",
                str(path),
            ) from error
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> Path:
    """Write ``content`` as readable JSON, atomically; returns ``path``."""
    with write_atomically(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
    return path
