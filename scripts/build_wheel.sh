#!/usr/bin/env bash
# Source distribution and wheel of this checkout, the wheel repaired by auditwheel, both checked by twine.
#   scripts/build_wheel.sh [OUT]     OUT: folder, default wheelhouse
# With CPU and CUDA code, for the Python and the torch of .venv (another: PYTHON=...); LAPAROFLOW_CUDA=0 leaves CUDA out.
# torch's libraries, CUDA's runtime and the OpenMP runtime stay outside: torch brings and loads them.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-wheelhouse}
python=${PYTHON:-.venv/bin/python}
platform=manylinux_2_28_$(uname -m)
export LAPAROFLOW_CUDA=${LAPAROFLOW_CUDA:-1}
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-8.0+PTX;9.0a;10.0;12.0} # not that of the GPU that happens to be here

bin=$("$python" -c 'import os, sys; print(os.path.dirname(os.path.abspath(sys.executable)))')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
PATH="$bin:$PATH" "$python" -m build --no-isolation --outdir "$work" .
PATH="$bin:$PATH" "$python" -m auditwheel repair --plat "$platform" --only-plat --wheel-dir "$work/repaired" \
  --exclude 'libtorch*.so' --exclude 'libc10*.so' --exclude 'libcudart.so.*' --exclude 'libgomp.so.1' "$work"/*.whl
"$python" -m twine check --strict "$work"/*.tar.gz "$work"/repaired/*.whl
mkdir -p "$out"
mv "$work"/*.tar.gz "$work"/repaired/*.whl "$out"/
ls -l "$out"
