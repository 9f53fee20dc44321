"""setup.py: whether the CUDA part is built, with which toolkit, for which GPUs."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import setuptools
import torch
from torch.utils import cpp_extension

from laparoflow_kernels.backends import native

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("LAPAROFLOW_CUDA", "LAPAROFLOW_NATIVE", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, with none of its variables set, nothing on PATH and no GPU in sight."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs a checkout")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.setattr(sys, "argv", ["setup.py", "egg_info"])
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    see(monkeypatch)
    spec = importlib.util.spec_from_file_location("laparoflow_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def see(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    """These GPUs are visible."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: capabilities[index])


def toolkit(root: Path, release: str) -> Path:
    """A toolkit whose nvcc tells its version and its root, and compiles nothing."""
    nvcc = root / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    lines = ["#!/bin/sh", f'if [ "$1" = --dryrun ]; then echo "#\\$ TOP={root}/bin/.." >&2; exit 0; fi']
    nvcc.write_text("\n".join([*lines, f'echo "Cuda compilation tools, release {release}, V{release}.99"']) + "\n")
    nvcc.chmod(0o755)
    return root


@pytest.mark.parametrize("release", ["13.0", "13.2"])
def test_a_toolkit_of_the_same_major_version_is_taken(script: ModuleType, tmp_path: Path, release: str) -> None:
    assert script.no_cuda_reason("13.0", toolkit(tmp_path, release)) is None


def test_a_toolkit_of_another_major_version_leaves_the_cuda_part_out(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = toolkit(tmp_path, "12.4")
    reason = script.no_cuda_reason("13.0", root)
    assert f"nvcc in {root}/bin was of CUDA 12.4" in reason and "torch of CUDA 13.0" in reason
    assert "install the toolkit of CUDA 13, and set CUDA_HOME" in reason
    assert reason in capsys.readouterr().err
    monkeypatch.setenv("LAPAROFLOW_CUDA", "1")
    with pytest.raises(SystemExit, match=r"LAPAROFLOW_CUDA=1.* CUDA 12\.4 .* CUDA 13\.0: install the toolkit of CUDA 13"):
        script.no_cuda_reason("13.0", root)
    monkeypatch.setenv("LAPAROFLOW_CUDA", "0")
    assert script.no_cuda_reason("13.0", root) == "LAPAROFLOW_CUDA=0 at build time"


def test_a_toolkit_of_another_version_leaves_no_cuda_source(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to what torch would be given to compile; with torch's own check alone the install would stop."""
    root = toolkit(tmp_path / "old", "12.4")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(script, "compiler", lambda: "/bin/sh")
    monkeypatch.setattr(sys, "argv", ["setup.py", "build_ext"])
    monkeypatch.setenv("MAX_JOBS", "1")
    monkeypatch.setenv("PATH", str(root / "bin"))
    (module,) = script.extension_arguments()["ext_modules"]
    assert module.sources and not [path for path in module.sources if "cuda" in path]


def test_outside_linux_the_reference_backend_remains(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["setup.py", "build_ext"])
    monkeypatch.setattr(sys, "platform", "darwin")
    assert script.extension_arguments() == {}
    assert "built on Linux alone, and this is darwin" in capsys.readouterr().err


def test_no_toolkit_is_a_reason_with_its_remedy(script: ModuleType, tmp_path: Path) -> None:
    assert script.toolkit_root() is None
    for root, place in ((None, "no nvcc at build time"), (tmp_path, f"no nvcc in {tmp_path}/bin")):
        reason = script.no_cuda_reason("12.8", root)
        assert reason.startswith(place) and "install the toolkit of CUDA 12, and set CUDA_HOME" in reason
    assert script.no_cuda_reason(None, tmp_path) == "torch was a CPU build at build time"


def test_the_toolkit_is_that_of_cuda_home_then_of_path_then_of_torch(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, on_path, found = (toolkit(tmp_path / name, "13.0") for name in ("named", "on_path", "found"))
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(found))
    assert script.toolkit_root() == found
    wrapper = tmp_path / "wrapper" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {on_path}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent))
    assert script.toolkit_root() == on_path
    monkeypatch.setenv("CUDA_HOME", str(named))
    assert script.toolkit_root() == named


@pytest.mark.parametrize(
    ("capabilities", "built"),
    [
        ([], "8.0+PTX;9.0a"),
        ([(8, 6)], "8.6"),
        ([(9, 0), (8, 0), (9, 0)], "8.0;9.0a"),
        ([(12, 0), (7, 5), (9, 0)], "9.0a;12.0"),
        ([(7, 5)], "8.0+PTX;9.0a"),
    ],
)
def test_all_visible_gpus_are_built_for(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capabilities: list[tuple[int, int]], built: str
) -> None:
    see(monkeypatch, *capabilities)
    assert script.architectures() == built
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "native")
    assert script.architectures() == built


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1)])
def test_a_wheel_has_machine_code_for_every_gpu_of_the_support_matrix(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    listed = re.search(r"TORCH_CUDA_ARCH_LIST:-([^}]+)}", (ROOT / "scripts" / "build_wheel.sh").read_text())
    assert listed is not None
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed[1])
    assert script.architectures() == listed[1]
    assert native.no_code_for(listed[1].replace("+PTX", ""), capability) is None


@pytest.mark.parametrize(
    ("listed", "built", "said"),
    [
        ("8.0+PTX;9.0a", "8.0+PTX;9.0a", []),
        ("8.6", "8.6", []),
        ("9.0a+PTX;10.0f", "9.0a+PTX;10.0f", []),
        ("7.0 7.5 8.0 8.6 9.0 10.0 12.0+PTX", "8.0;8.6;9.0a;10.0;12.0+PTX", ["7.0, 7.5", "9.0a in place of 9.0"]),
        ("5.2+PTX; 8.0;9.0;9.0a", "8.0;9.0a", ["5.2+PTX", "9.0a in place of 9.0"]),
        ("9.0+PTX", "8.0+PTX;9.0a", ["9.0a in place of 9.0"]),
        ("8.0;9.0+PTX", "8.0+PTX;9.0a", ["9.0a in place of 9.0"]),
        ("8.6+PTX;9.0+PTX", "8.6+PTX;9.0a", ["9.0a in place of 9.0"]),
    ],
)
def test_a_list_of_architectures_is_made_buildable_aloud(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    listed: str,
    built: str,
    said: list[str],
) -> None:
    see(monkeypatch, (8, 9))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    assert script.architectures() == built
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines, strict=True)), lines


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("7.0;7.5+PTX", "need 8.0 or newer; unset it"),
        ("8.0,9.0", "expected entries like .*'8.0,9.0'"),
        ("8.0 Hopper", "expected entries like .*'Hopper'"),
    ],
)
def test_a_list_without_any_buildable_architecture_stops(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, listed: str, said: str
) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    with pytest.raises(SystemExit, match=said):
        script.architectures()
