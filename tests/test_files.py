"""Files are complete or not there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from laparoflow.files import DiskFullError, try_writing, write_atomically, write_json


def test_a_written_file_replaces_the_old_one_in_one_step(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    before = path.stat().st_ino
    with write_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != before
    assert os.listdir(tmp_path) == ["a.bin"]


def write_half(path: Path, error: BaseException) -> None:
    """Begin to write, then fail."""
    with write_atomically(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), OSError(errno.EIO, "broken disk")])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_named(tmp_path, number):
    with pytest.raises(DiskFullError, match=r"disk full.*finished work is kept.*a\.json") as caught:
        write_half(tmp_path / "a.json", OSError(number, "no space"))
    assert caught.value.errno == number
    assert os.listdir(tmp_path) == []


def test_json(tmp_path):
    assert write_json(tmp_path / "a.json", {"x": [1, 2]}) == tmp_path / "a.json"
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2]}


def test_a_place_that_can_be_written_to_is_left_as_it_was(tmp_path):
    (tmp_path / "old.html").write_text("old")
    for name in ("old.html", "new.html", "a/b/new.html", "."):
        try_writing("out", tmp_path / name)
    assert os.listdir(tmp_path) == ["old.html"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "page.html", Path("/proc/page.html")):
        with pytest.raises(OSError, match=f"out: cannot write {place}"):
            try_writing("out", place)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("laparoflow.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        try_writing("out", tmp_path / "page.html")
