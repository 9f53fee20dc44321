"""The extension of this checkout asks for nothing that a manylinux_2_28 machine with torch lacks (CUDA part included)."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

elf = pytest.importorskip("elftools.elf.elffile")

# newest version of each name that every manylinux_2_28 system has
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0), "GOMP": (4, 5), "OMP": (4, 5)}
TORCH_BRINGS = r"libtorch\w*\.so|libc10\w*\.so|libcudart\.so\.\d+|libgomp\.so\.1"
SYSTEM_HAS = r"lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.so\.\d+|ld-linux-x86-64\.so\.2"


def extension() -> Path:
    found = find_spec("laparoflow_kernels._C")
    if found is None or found.origin is None:
        pytest.skip("the extension is not built")
    return Path(found.origin)


def needed_versions(path: Path) -> dict[str, list[str]]:
    """Library -> names of the symbol versions that the file needs of it, such as GLIBC_2.14."""
    with path.open("rb") as file:
        section = elf.ELFFile(file).get_section_by_name(".gnu.version_r")
        needed = {library.name: [part.name for part in parts] for library, parts in section.iter_versions()}
    return {library: names for library, names in needed.items() if not re.fullmatch(r"libcudart\.so\.\d+", library)}


def too_new(names: list[str]) -> list[str]:
    found = []
    for name in names:
        family, _, version = name.partition("_")
        if family not in NEWEST or tuple(int(n) for n in version.split(".")) > NEWEST[family]:
            found.append(name)
    return found


def test_no_symbol_is_newer_than_the_tag_allows() -> None:
    versions = needed_versions(extension())
    assert any(name.startswith("GLIBC_") for names in versions.values() for name in names)
    assert {library: too_new(names) for library, names in versions.items() if too_new(names)} == {}


def test_only_torch_cuda_and_the_system_are_linked() -> None:
    with extension().open("rb") as file:
        section = elf.ELFFile(file).get_section_by_name(".dynamic")
        linked = [tag.needed for tag in section.iter_tags("DT_NEEDED")]
        paths = [tag.entry.d_tag for tag in section.iter_tags() if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH")]
    assert linked
    assert [name for name in linked if not re.fullmatch(f"{TORCH_BRINGS}|{SYSTEM_HAS}", name)] == []
    assert paths == [], "a path of the building machine"


def test_the_rule_knows_a_symbol_that_is_too_new() -> None:
    assert too_new(["GLIBC_2.28", "GLIBC_2.29", "GLIBCXX_3.4.21", "GLIBCXX_3.4.29", "CXXABI_1.3.13", "NEW_1"]) == [
        "GLIBC_2.29", "GLIBCXX_3.4.29", "CXXABI_1.3.13", "NEW_1",
    ]  # fmt: skip
