"""Builds the host execution of ``csrc/cuda``: the ``.cu`` kernel bodies compiled by the C++ compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent.parent / "csrc"
KERNELS = tuple(sorted(path.name for path in SOURCES.glob("cuda/*/*.cu")))
SIMULATOR = ("simulator.cpp", "simulator_warp.cpp", "simulator_async.cpp", "simulator_warpgroup.cpp")
FLAGS = ("-std=c++17", "-g1", "-fPIC", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DLAPAROFLOW_HOST_EXECUTION")
# The simulator switches stacks and stands for the machine, so it is not itself instrumented.
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DLAPAROFLOW_ASAN"),
    "thread": ("-fsanitize=thread", "-DLAPAROFLOW_TSAN"),
}


def compiler() -> str | None:
    """The C++ compiler to use: ``$CXX``, else g++; None when there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def build(
    out: Path,
    csrc: Path = SOURCES,
    sanitizer: str | None = None,
    only: tuple[str, ...] = KERNELS,
    rest: Path | None = None,
    optimise: str = "-O1",
) -> Path:
    """Compiles the kernels under ``csrc`` and the simulator into ``out``.

    Args:
        out: An existing folder for objects and the result.
        csrc: A tree like the repository's ``csrc`` (a changed copy, for planted mistakes).
        sanitizer: None for a shared library that ctypes loads; ``"address"`` (with undefined behaviour) or
            ``"thread"`` for a program that runs its own cases.
        only: The kernel files to compile.
        rest: The folder of an earlier build whose objects serve for everything else. The new objects are linked
            first, so that inline functions common to both are the new ones.
        optimise: ``"-O0"`` compiles in a third of the time and runs at a third of the speed.

    Returns:
        The path of the library or program.

    Raises:
        RuntimeError: the compiler failed; the message holds its output.
    """
    cxx = compiler()
    if cxx is None:
        raise RuntimeError("no C++ compiler")
    extra = SANITIZERS[sanitizer] if sanitizer else ()
    includes = [f"-I{csrc}", f"-I{HERE}"]
    own = [HERE / name for name in (*SIMULATOR, "harness.cpp", *(["program.cpp"] if sanitizer else []))]

    def compile_one(source: Path) -> Path:
        target = out / (source.name + ".o")
        flags = [flag for flag in extra if source.name not in SIMULATOR or not flag.startswith("-f")]
        command = [cxx, *FLAGS, optimise, *flags, *includes, "-x", "c++", "-c", str(source), "-o", str(target)]
        _run(command)
        return target

    sources = [path for path in sorted(csrc.glob("cuda/*/*.cu")) if path.name in only] + (own if rest is None else [])
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        objects = list(pool.map(compile_one, sources))
    if rest is not None:
        objects += [rest / f"{name}.o" for name in (*KERNELS, *(source.name for source in own)) if name not in only]
    result = out / (f"host_{sanitizer}" if sanitizer else "libhost.so")
    link = [flag for flag in extra if flag.startswith("-f")]
    _run([cxx, *link, *([] if sanitizer else ["-shared"]), "-o", str(result), *map(str, objects)])
    return result


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    if "warning:" in done.stderr:
        raise RuntimeError(f"the compiler warns:\n{done.stderr}")
