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

SAME = {"torch": torch.__version__, "cuda": torch.version.cuda}


@pytest.mark.parametrize(
    ("built_for", "version", "cuda", "wanted"),
    [
        ({"torch": "2.15.0+cu132", "cuda": "13.2"}, "2.15.0+cu132", "13.2", None),
        ({"torch": "2.15.0+cu132", "cuda": "13.2"}, "2.15.3", "13.0", None),
        ({"torch": "2.15.0+cu132", "cuda": "13.2"}, "2.15.0+cu128", "12.8", "torch 2.15 with CUDA 13"),
        ({"torch": "2.15.0+cu132", "cuda": "13.2"}, "2.15.0+cpu", None, "torch 2.15 with CUDA 13"),
        ({"torch": "2.15.0+cu132", "cuda": None}, "2.15.0+cpu", None, None),
        ({"torch": "2.15.0", "cuda": None}, "2.15.0a0+git1234567", "13.2", None),
        ({"torch": "2.15.0", "cuda": None}, "2.11.0", None, "torch 2.15"),
        ({"torch": "2.11.0", "cuda": None}, "2.15.0", None, "torch 2.11"),
        ({"torch": "2.1.0", "cuda": None}, "2.11.0", None, "torch 2.1"),
        ({"torch": "2.11.0", "cuda": None}, "2.1.0", None, "torch 2.11"),
    ],
)
def test_same_minor_version_and_cuda(built_for: dict[str, Any], version: str, cuda: str | None, wanted: str | None) -> None:
    assert native.other_torch(built_for, version, cuda) == wanted


def facts_file(folder: Path, **changes: Any) -> Path:
    path = folder / "_C.json"
    path.write_text(json.dumps({**SAME, **changes}))
    return path


def test_the_needed_torch_is_named_and_the_extension_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(name: str) -> None:
        raise AssertionError(f"{name} was opened")

    monkeypatch.setattr(native, "import_module", never)
    said = rf"_C needs torch 2\.10, and this is torch {re.escape(torch.__version__)}.*pip install --no-build-isolation"
    with pytest.warns(RuntimeWarning, match=said):
        module, reason = native._load(facts_file(tmp_path, torch="2.10.1", cuda=None))
    assert module is None
    assert reason is not None and "needs torch 2.10" in reason


@pytest.mark.parametrize("with_facts", [True, False])
def test_the_right_torch_loads_without_a_word(tmp_path: Path, with_facts: bool) -> None:
    path = facts_file(tmp_path) if with_facts else tmp_path / "absent.json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module, reason = native._load(path)
    assert (module, reason) == (native.EXTENSION, native.LOAD_ERROR)


def test_an_extension_that_was_never_built_is_no_surprise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(native, "import_module", absent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, reason = native._load(tmp_path / "absent.json")
    assert reason is not None and "was not built" in reason
