"""Source distribution and wheel: built as a release is (but without CUDA, for time), checked where no compiler is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # a compiler at work beside other tests

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, **variables: str) -> str:
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both files. The wheel is compiled from the source distribution, in another place."""
    pytest.importorskip("build")
    pytest.importorskip("auditwheel")
    pytest.importorskip("twine")
    if sys.platform != "linux" or shutil.which(os.environ.get("CXX", "g++").split()[0]) is None:
        pytest.skip("needs Linux and a C++ compiler")
    out = tmp_path_factory.mktemp("wheelhouse")
    run("scripts/build_wheel.sh", str(out), LAPAROFLOW_CUDA="0")
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def metadata(text: str) -> Message:
    return message_from_string(text)


def torch_requirements(data: Message) -> list[str]:
    return [value for value in data.get_all("Requires-Dist", []) if value.startswith("torch") and "extra" not in value]


def test_the_wheel_has_the_tag_and_one_extension(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-manylinux_2_28_x86_64.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len([name for name in names if ".so" in name]) == 1, "a library of torch or CUDA came along"
    assert "laparoflow_kernels/_C.json" in names
    assert {name.split("/")[0] for name in names} == {"laparoflow", "laparoflow_kernels", "laparoflow-0.2.0.dist-info"}


def test_the_wheel_depends_on_every_torch_from_the_oldest_on(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("dist-info/METADATA")]
        data = metadata(archive.read(name).decode())
    assert torch_requirements(data) == ["torch>=2.11"]


def test_the_source_distribution_has_all_sources_and_the_whole_range_of_torch(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        file = archive.extractfile(path.name.removesuffix(".tar.gz") + "/PKG-INFO")
        assert file is not None
        data = metadata(file.read().decode())
    assert [value.replace(" ", "") for value in torch_requirements(data)] == ["torch>=2.11"]
    for folder, kinds in (("csrc", "*"), ("tests/kernels", "*.py"), ("examples", "*.py"), ("docs", "*"), ("scripts", "*")):
        files = {p.relative_to(ROOT) for p in (ROOT / folder).rglob(kinds) if p.is_file() and p.suffix != ".pyc"}
        wanted = {str(path) for path in files if "generated" not in path.parts}  # made by the site, maybe at this moment
        assert wanted and wanted <= names, sorted(wanted - names)
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc", "_C.json")) or "/generated/" in name]


def test_the_wheel_passes_the_kernel_tests_in_a_fresh_environment_without_a_compiler(wheel: Path) -> None:
    """Also: beside another torch it says which one it needs (at the end of the script)."""
    said = run("scripts/check_wheel.sh", str(wheel), "-q")
    assert " passed" in said
    assert "beside another torch: the library laparoflow_kernels/_C.so needs torch 99.0" in said


def test_the_same_wheel_passes_beside_another_torch(wheel: Path, tmp_path: Path) -> None:
    """torch 2.13 here; the oldest and the newest are in the matrix of the install page, since each is several GB."""
    pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(tmp_path / "torch"), "torch==2.13.0")
    if subprocess.run(pip, capture_output=True, check=False).returncode != 0:
        pytest.skip("torch 2.13.0 cannot be had for this Python")
    assert torch.__version__.split(".")[:2] != ["2", "13"], "the environment of the other tests has another torch"
    options = ("-q", "-k", "test_ops or test_arguments or test_edges")
    said = run("scripts/check_matrix.sh", str(wheel), str(tmp_path), f"2.13.0@{sys.executable}", "--", *options)
    assert "| passed |" in said and "| 2.13.0" in said
