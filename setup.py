"""Builds laparoflow_kernels._C from csrc/: the CPU part always, the CUDA part where nvcc and a CUDA build of torch are.

Environment variables (docs/BUILD.md):
    LAPAROFLOW_NATIVE=0       no extension at all (pure Python: reference and triton backends)
    LAPAROFLOW_CUDA=0|1       leave the CUDA part out | insist on it
    TORCH_CUDA_ARCH_LIST      architectures, as torch's own; default: the visible GPUs', else 8.0 and 9.0a with PTX
    CUDA_HOME                 root of the CUDA toolkit; default: what `nvcc --dryrun` says, else where torch looks
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
ANY_GPU = "8.0+PTX;9.0a"
# torch's names of architectures
NAMED = {
    "Ampere": "8.0;8.6+PTX",
    "Ampere+Tegra": "8.7",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0;12.0+PTX",
    "Blackwell+Tegra": "11.0",
}
NAMED_OLD = {"Kepler", "Kepler+Tesla", "Maxwell", "Maxwell+Tegra", "Pascal", "Volta", "Volta+Tegra", "Turing"}


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
    """The CUDA toolkit's root. `nvcc` on PATH may be a wrapper script, so ask it instead of guessing from its place; where
    there is none, torch's own search: CUDA_PATH, /usr/local/cuda."""
    if os.environ.get("CUDA_HOME"):
        return Path(os.environ["CUDA_HOME"])
    if shutil.which("nvcc") is not None:
        dryrun = subprocess.run(["nvcc", "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
        top = re.search(r"^#\$ TOP=(.+)$", dryrun.stderr, re.MULTILINE)
        if top and (Path(top.group(1).strip()) / "bin" / "nvcc").exists():
            return Path(top.group(1).strip()).resolve()
    from torch.utils import cpp_extension

    return Path(cpp_extension.CUDA_HOME) if cpp_extension.CUDA_HOME else None


def no_toolkit_reason(cuda_build: str, root: Path | None) -> str | None:
    """Why the toolkit there cannot compile for a torch of that CUDA version, and the remedy; or None.

    torch stops where the major versions differ, and only warns where the minor ones do.
    """
    major = cuda_build.partition(".")[0]
    remedy = f"install the toolkit of CUDA {major}, and set CUDA_HOME to its root or put its nvcc on PATH"
    if root is None:
        return f"no nvcc at build time: {remedy}"
    try:
        said = subprocess.run([str(root / "bin" / "nvcc"), "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return f"no nvcc in {root}/bin at build time: {remedy}"
    release = re.search(r"release ((\d+)\.\d+)", said)
    if release and release.group(2) != major:
        return f"nvcc in {root}/bin was of CUDA {release.group(1)} at build time, torch of CUDA {cuda_build}: {remedy}"
    return None


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
    else:
        reason = no_toolkit_reason(cuda_build, root)
    if reason is not None and wish == "1":
        raise SystemExit(f"laparoflow: LAPAROFLOW_CUDA=1, but the CUDA part cannot be built: {reason}")
    if reason is not None:
        warn(f"building without the CUDA part: {reason}")
    return reason


def architectures() -> str:
    """TORCH_CUDA_ARCH_LIST as far as the kernels go, else the visible GPUs', else 8.0 and 9.0a plus PTX."""
    import torch

    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(" ;")
    if listed not in ("", "native"):
        return buildable(listed)
    visible = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    capabilities = sorted({torch.cuda.get_device_capability(index) for index in visible})
    usable = ["9.0a" if pair == (9, 0) else "{}.{}".format(*pair) for pair in capabilities if pair >= (8, 0)]
    return ";".join(usable) or ANY_GPU


def buildable(listed: str) -> str:
    """A TORCH_CUDA_ARCH_LIST with numbers for names, without what is under 8.0, and with 9.0a for 9.0.

    PTX of 9.0a serves no later GPU. So 9.0+PTX becomes 9.0a and the PTX of 8.0.
    """
    entries = [entry for name in re.split(r"[ ;]+", listed) for entry in NAMED.get(name, name).split(";")]
    old = [entry for entry in entries if entry in NAMED_OLD or re.match(r"[1-7]\.", entry)]
    kept = [entry for entry in entries if entry not in old]
    strange = [entry for entry in kept if not re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?", entry)]
    if strange:
        raise SystemExit(f"laparoflow: TORCH_CUDA_ARCH_LIST: expected entries like 8.0, 9.0a or 8.0+PTX, got {strange[0]!r}")
    if not kept:
        raise SystemExit(
            f"laparoflow: TORCH_CUDA_ARCH_LIST={listed}: the CUDA kernels need 8.0 or newer; "
            f'unset it, set it to "{ANY_GPU}", or leave the CUDA part out with LAPAROFLOW_CUDA=0'
        )
    if old:
        warn(f"TORCH_CUDA_ARCH_LIST: left out, since the CUDA kernels need 8.0 or newer: {', '.join(dict.fromkeys(old))}")
    if {"9.0", "9.0+PTX"}.intersection(kept):
        warn("TORCH_CUDA_ARCH_LIST: building for 9.0a in place of 9.0, which has no wgmma")
    if "9.0+PTX" in kept and not any(re.fullmatch(r"8\.\d\+PTX", entry) for entry in kept):
        kept = ["8.0+PTX", *(entry for entry in kept if entry != "8.0")]
    return ";".join(dict.fromkeys("9.0a" if entry in ("9.0", "9.0+PTX") else entry for entry in kept))


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
        macros += [("LF_NO_CUDA_REASON", json.dumps(reason))]
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
