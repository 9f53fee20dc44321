"""Builds laparoflow_kernels._C from csrc/: the CPU part always, the CUDA part where nvcc and a CUDA build of torch are.

Environment variables (docs/BUILD.md):
    LAPAROFLOW_NATIVE=0       no extension at all (pure Python: reference and triton backends)
    LAPAROFLOW_CUDA=0|1       leave the CUDA part out | insist on it
    TORCH_CUDA_ARCH_LIST      architectures, as torch's own; default: the visible GPU's, else 8.0 and 9.0a with PTX
    CUDA_HOME                 root of the CUDA toolkit; default: what `nvcc --dryrun` says
    MAX_JOBS                  parallel compilations

torch's C++ interface holds within one minor version alone. So a build with the extension depends on the minor version of
torch that it was compiled with, and leaves _C.json beside the extension, which tells it before the extension is loaded.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
SUPPORTED_TORCH = "torch>=2.11,<2.16"
# commands that compile nothing must work where torch is not: packaging metadata, source distributions
COMPILES_NOTHING = {"sdist", "egg_info", "dist_info", "clean", "--version", "--name", "--help"}
DESCRIBES_SOURCES = COMPILES_NOTHING - {"dist_info"}  # dist_info announces the metadata of the wheel that is built next


def warn(message: str) -> None:
    print(f"laparoflow: {message}", file=sys.stderr)


def wants_extension() -> bool:
    return os.environ.get("LAPAROFLOW_NATIVE", "1") != "0" and not COMPILES_NOTHING.intersection(sys.argv[1:])


def compiler() -> str:
    return os.environ.get("CXX", "g++").split()[0]


def torch_requirement() -> str:
    """The supported range for sources and pure Python builds; with an extension the minor version it is compiled with."""
    if os.environ.get("LAPAROFLOW_NATIVE", "1") == "0" or DESCRIBES_SOURCES.intersection(sys.argv[1:]):
        return SUPPORTED_TORCH
    try:
        major, minor = importlib.metadata.version("torch").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:
        return SUPPORTED_TORCH
    return f"torch=={major}.{minor}.*" if shutil.which(compiler()) else SUPPORTED_TORCH


def toolkit_root() -> Path | None:
    """The CUDA toolkit's root. `nvcc` on PATH may be a wrapper script, so ask it instead of guessing from its place."""
    if os.environ.get("CUDA_HOME"):
        return Path(os.environ["CUDA_HOME"])
    if shutil.which("nvcc") is None:
        return None
    dryrun = subprocess.run(["nvcc", "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.+)$", dryrun.stderr, re.MULTILINE)
    return Path(top.group(1).strip()).resolve() if top else None


def no_cuda_reason(cuda_build: str | None, root: Path | None) -> str | None:
    """Why the CUDA part is left out, or None. A visible GPU plays no part in this."""
    wish = os.environ.get("LAPAROFLOW_CUDA", "")
    reason = None
    if wish == "0":
        return "LAPAROFLOW_CUDA=0 at build time"
    if not any((ROOT / "csrc" / "cuda").glob("*.cu")):
        reason = "this source tree has no CUDA kernels"
    elif cuda_build is None:
        reason = "torch was a CPU build at build time"
    elif root is None:
        reason = "no nvcc at build time"
    if reason is not None and wish == "1":
        raise SystemExit(f"laparoflow: LAPAROFLOW_CUDA=1, but the CUDA part cannot be built: {reason}")
    return reason


def architectures() -> str:
    """TORCH_CUDA_ARCH_LIST, else the visible GPU's, else 8.0 and 9.0a plus PTX."""
    import torch

    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return os.environ["TORCH_CUDA_ARCH_LIST"]
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return "9.0a" if (major, minor) == (9, 0) else f"{major}.{minor}"
    return "8.0+PTX;9.0a"


def extension_arguments() -> dict:
    if not wants_extension():
        return {}
    try:
        import torch
    except ImportError:
        raise SystemExit(
            "laparoflow: the build cannot see torch (pip builds in an isolated environment). Type:\n"
            "    pip install torch setuptools wheel ninja pybind11 numpy && pip install --no-build-isolation .\n"
            "or, for the pure Python backends only:\n"
            "    LAPAROFLOW_NATIVE=0 pip install ."
        ) from None
    if shutil.which(compiler()) is None:
        warn(f"no C++ compiler ({compiler()}): installing without the native backend")
        return {}
    root = toolkit_root()
    reason = no_cuda_reason(torch.version.cuda, root)
    sources = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").glob("*.cpp"))
    sources += sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc" / "cpu").glob("*.cpp"))
    # -fopenmp: at::parallel_for is a template, and runs on one thread without it
    # no -ffast-math: compensated sums and infinities must stay
    cxx = ["-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi", "-fvisibility=hidden", "-fopenmp"]
    cxx += ["-include", str(ROOT / "csrc" / "old_glibc.h")]
    macros: list[tuple[str, str | None]] = [("LF_TORCH_VERSION", f'"{torch.__version__}"')]
    if reason is None:
        os.environ["CUDA_HOME"] = str(root)
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures()
        sources += sorted(
            str(p.relative_to(ROOT)) for p in (ROOT / "csrc" / "cuda").glob("*.c*") if p.suffix in (".cu", ".cpp")
        )
        macros += [
            ("LF_WITH_CUDA", None),
            ("LF_CUDA_VERSION", f'"{torch.version.cuda}"'),
            ("LF_CUDA_ARCHITECTURES", f'"{os.environ["TORCH_CUDA_ARCH_LIST"]}"'),
        ]
    else:
        macros += [("LF_NO_CUDA_REASON", f'"{reason}"')]
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))

    from torch.utils import cpp_extension  # reads CUDA_HOME when imported

    kind = cpp_extension.CUDAExtension if reason is None else cpp_extension.CppExtension
    flags: dict[str, list[str]] = {"cxx": cxx}
    if reason is None:
        # denormal weights are 0 by definition; --use_fast_math would also change divisions
        flags["nvcc"] = ["-O3", "--ftz=true", "--expt-relaxed-constexpr"]
    module = kind(
        "laparoflow_kernels._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],
        define_macros=macros,
        extra_compile_args=flags,
        extra_link_args=["-fopenmp"],
    )

    class Build(cpp_extension.BuildExtension):
        """Also writes the facts that must be known before the extension may be loaded."""

        def run(self) -> None:
            super().run()
            facts = {"torch": torch.__version__, "cuda": torch.version.cuda if reason is None else None}
            Path(self.get_ext_fullpath(module.name)).with_name("_C.json").write_text(json.dumps(facts) + "\n")

    return {"ext_modules": [module], "cmdclass": {"build_ext": Build.with_options(use_ninja=True)}}


setup(install_requires=[torch_requirement()], **extension_arguments())
