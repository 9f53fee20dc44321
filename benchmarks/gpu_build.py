"""Build the extension in place; what an earlier build left is removed first, so that no stale code is measured.

    python -m benchmarks.gpu_build

After a build that fails or is stopped no extension is there at all.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def remove_extension(root: Path) -> None:
    """Remove the compiled module and the facts beside it."""
    package = root / "laparoflow_kernels"
    for path in [*package.glob("_C*.so"), package / "_C.json"]:
        path.unlink(missing_ok=True)


def main(root: Path = ROOT) -> int:
    built = False
    remove_extension(root)
    try:
        status = subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=root, check=False).returncode
        built = status == 0
    finally:
        if not built:
            remove_extension(root)
    return 0 if built else 1


if __name__ == "__main__":
    sys.exit(main())
