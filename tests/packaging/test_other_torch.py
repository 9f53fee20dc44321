"""An extension of another torch is not opened: which torch it needs is said, and everything else goes on."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from laparoflow_kernels.backends import native

SAME = {"oldest_torch": "2.11", "cuda": torch.version.cuda}


@pytest.mark.parametrize(
    ("built_for", "version", "cuda", "wanted"),
    [
        ({"oldest_torch": "2.11", "cuda": "13.2"}, "2.15.0+cu132", "13.2", None),
        ({"oldest_torch": "2.11", "cuda": "13.2"}, "2.11.0", "13.0", None),
        ({"oldest_torch": "2.11", "cuda": "13.2"}, "2.15.0+cu128", "12.8", "torch 2.11 or newer with CUDA 13"),
        ({"oldest_torch": "2.11", "cuda": "13.2"}, "2.15.0+cpu", None, "torch 2.11 or newer with CUDA 13"),
        ({"oldest_torch": "2.11", "cuda": None}, "2.15.0a0+git1234567", "13.2", None),
        ({"oldest_torch": "2.11", "cuda": None}, "3.0.0", None, None),
        ({"oldest_torch": "2.11", "cuda": None}, "2.10.1", None, "torch 2.11 or newer"),
        ({"oldest_torch": "2.11", "cuda": None}, "2.9.0", None, "torch 2.11 or newer"),
        ({"oldest_torch": "2.11", "cuda": None}, "1.13.1", None, "torch 2.11 or newer"),
    ],
)
def test_every_torch_from_the_oldest_on_and_one_cuda(
    built_for: dict[str, Any], version: str, cuda: str | None, wanted: str | None
) -> None:
    assert native.other_torch(built_for, version, cuda) == wanted


def facts_file(folder: Path, **changes: Any) -> Path:
    (folder / "_C.json").write_text(json.dumps({**SAME, **changes}))
    return folder


def test_the_needed_torch_is_named_and_the_library_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(path: Path) -> None:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(torch.ops, "load_library", never)
    said = rf"_C\.so needs torch 99\.0 or newer, and this is torch {re.escape(torch.__version__)}.*pip install --no-build"
    with pytest.warns(RuntimeWarning, match=said):
        facts, reason = native._load(facts_file(tmp_path, oldest_torch="99.0", cuda=None))
    assert facts == {} and reason is not None and "needs torch 99.0" in reason


def test_a_library_that_does_not_load_is_said(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="does not load"):
        facts, reason = native._load(facts_file(tmp_path))
    assert facts == {} and reason is not None and "does not load" in reason


def test_a_library_that_was_never_built_is_no_surprise(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, reason = native._load(tmp_path)
    assert reason is not None and "was not built" in reason
