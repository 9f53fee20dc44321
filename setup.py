"""Builds laparoflow_kernels._C from csrc/: the CPU part always, the CUDA part where nvcc and a CUDA build of torch are.

Environment variables (docs/INSTALL.md):
    LAPAROFLOW_NATIVE=0       no extension at all (pure Python: reference and triton backends)
    LAPAROFLOW_CUDA=0|1       leave the CUDA part out | insist on it
    TORCH_CUDA_ARCH_LIST      architectures, as torch's own; default: the visible GPUs', else 8.0 and 9.0a with PTX
    CUDA_HOME                 root of the CUDA toolkit; default: what `nvcc --dryrun` says, else where torch looks
    MAX_JOBS                  parallel compilations

The library uses torch's stable C interface alone and nothing of Python's: one build serves every torch from OLDEST on and
every Python. _C.json beside it has the facts of the build; they are read before the library is loaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import setuptools
from setuptools import errors, setup

if int(setuptools.__version__.partition(".")[0]) < 77:
    raise SystemExit(
        f"laparoflow: the build needs setuptools 77 or newer, and this is {setuptools.__version__}. Type:\n"
        '    pip install "setuptools>=77" wheel ninja'
    )
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
OLDEST = (2, 11)  # the first torch whose stable interface has all that csrc/ uses
SUPPORTED_TORCH = "torch>={}.{}".format(*OLDEST)
# commands that compile nothing must work where torch is not: packaging metadata, source distributions
COMPILES_NOTHING = {"sdist", "egg_info", "dist_info", "clean", "--version", "--name", "--help"}
ANY_GPU = "8.0+PTX;9.0a"


def warn(message: str) -> None:
    print(f"laparoflow: {message}", file=sys.stderr)


def wants_extension() -> bool:
    return os.environ.get("LAPAROFLOW_NATIVE", "1") != "0" and not COMPILES_NOTHING.intersection(sys.argv[1:])


def compiler() -> str:
    return os.environ.get("CXX", "g++").split()[0]


def output(*command: str) -> str:
    """What the command prints; empty where there is no such command."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError:
        return ""
    return done.stdout


def supported(flags: list[str]) -> list[str]:
    """The flags that the compiler takes; the others are left out aloud, since none is needed for right results."""
    kept = []
    for flag in flags:
        command = [compiler(), "-Werror", flag, "-x", "c++", "-fsyntax-only", os.devnull]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            kept.append(flag)
        else:
            warn(f"{compiler()} does not take {flag}: building without it")
    return kept


class AnyPythonWheel(bdist_wheel):
    """The library is loaded by torch, not imported: a wheel serves every Python of its platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def toolkit_root() -> Path | None:
    """The CUDA toolkit's root. `nvcc` on PATH may be a wrapper script, so ask it instead of guessing from its place; where
    there is none, torch's own search: CUDA_PATH, /usr/local/cuda."""
    if os.environ.get("CUDA_HOME"):
        return Path(os.environ["CUDA_HOME"])
    top = re.search(r"^#\$ TOP=(.+)$", output("nvcc", "--dryrun", "-x", "cu", os.devnull), re.MULTILINE)
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
    said = output(str(root / "bin" / "nvcc"), "--version")
    if not said:
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
    if not any((ROOT / "csrc" / "cuda").glob("*/*.cu")):
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
    """A TORCH_CUDA_ARCH_LIST without what is under 8.0, and with 9.0a for 9.0.

    PTX of 9.0a serves no later GPU. So 9.0+PTX becomes 9.0a and the PTX of 8.0.
    """
    entries = re.split(r"[ ;]+", listed)
    strange = [entry for entry in entries if not re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?", entry)]
    if strange:
        raise SystemExit(f"laparoflow: TORCH_CUDA_ARCH_LIST: expected entries like 8.0, 9.0a or 8.0+PTX, got {strange[0]!r}")
    old = [entry for entry in entries if int(entry.partition(".")[0]) < 8]
    kept = [entry for entry in entries if entry not in old]
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
    if sys.platform != "linux":
        warn(f"the native backend is built on Linux alone, and this is {sys.platform}: the reference backend remains")
        return {}
    try:
        import torch
    except ImportError:
        raise SystemExit(
            "laparoflow: the build cannot see torch (pip builds in an isolated environment). Type:\n"
            "    pip install torch 'setuptools>=77' wheel ninja && pip install --no-build-isolation .\n"
            "or, for the pure Python backends only:\n"
            "    LAPAROFLOW_NATIVE=0 pip install ."
        ) from None
    if shutil.which(compiler()) is None:
        warn(f"no C++ compiler ({compiler()}): installing without the native backend")
        return {}
    root = toolkit_root()
    reason = no_cuda_reason(torch.version.cuda, root)
    places = ["*.cpp", "cpu/*.cpp"] + (["cuda/*/*.cpp", "cuda/*/*.cu"] if reason is None else [])
    sources = sorted(str(path.relative_to(ROOT)) for place in places for path in (ROOT / "csrc").glob(place))
    # no -ffast-math: compensated sums and infinities must stay
    wanted = ["-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi", "-fvisibility=hidden", "-fopenmp-simd"]
    flags: dict[str, list[str]] = {"cxx": [*supported(wanted), "-include", str(ROOT / "csrc" / "old_glibc.h")]}
    macros: list[tuple[str, str | None]] = [("TORCH_TARGET_VERSION", f"0x{OLDEST[0]:02x}{OLDEST[1]:02x}000000000000ULL")]
    if reason is None:
        os.environ["CUDA_HOME"] = str(root)
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures()
        macros += [("LF_CUDA_ARCHITECTURES", f'"{os.environ["TORCH_CUDA_ARCH_LIST"]}"')]
        # denormal weights are 0 by definition; --use_fast_math would also change divisions; compressed, machine code takes
        # a seventh
        flags["nvcc"] = ["-O3", "--ftz=true", "--expt-relaxed-constexpr", "-Xfatbin", "-compress-all"]
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
    facts = {
        "torch": torch.__version__,
        "oldest_torch": ".".join(map(str, OLDEST)),
        "compiler": output(compiler(), "--version").partition("\n")[0],
        "cuda": torch.version.cuda if reason is None else None,
        "cuda_architectures": os.environ["TORCH_CUDA_ARCH_LIST"] if reason is None else "",
        "no_cuda_reason": reason,
    }

    from torch.utils import cpp_extension  # reads CUDA_HOME when imported

    kind = cpp_extension.CUDAExtension if reason is None else cpp_extension.CppExtension
    module = kind(
        "laparoflow_kernels._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],
        define_macros=macros,
        extra_compile_args=flags,
        py_limited_api=True,  # torch's Python library is not linked
    )

    class Build(cpp_extension.BuildExtension):
        """Writes the facts of the build, which must be known before the library may be loaded, beside it."""

        def build_extensions(self) -> None:
            for linker in ("linker_so", "linker_so_cxx"):  # some Pythons add the folder of their own library
                flags = getattr(self.compiler, linker, None) or []
                setattr(self.compiler, linker, [flag for flag in flags if not flag.startswith(("-L", "-Wl,-rpath"))])
            super().build_extensions()

        def run(self) -> None:
            try:
                super().run()
            except (RuntimeError, errors.BaseError, errors.CCompilerError) as error:
                raise SystemExit(
                    f"laparoflow: {compiler()} could not build the native backend: {error}\n"
                    "Its messages are above. Type one of these, the second for the pure Python backends only:\n"
                    "    CXX=g++ pip install --no-build-isolation .\n"
                    "    LAPAROFLOW_NATIVE=0 pip install ."
                ) from None
            Path(self.get_ext_fullpath(module.name)).with_name("_C.json").write_text(json.dumps(facts, indent=1) + "\n")

    return {
        "ext_modules": [module],
        "cmdclass": {
            "build_ext": Build.with_options(use_ninja=True, no_python_abi_suffix=True),
            "bdist_wheel": AnyPythonWheel,
        },
    }


setup(install_requires=[SUPPORTED_TORCH], **extension_arguments())
