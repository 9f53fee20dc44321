#!/usr/bin/env bash
# Builds the kernels against another torch, in an environment of its own, and runs the kernel tests there on the CPU.
#   scripts/check_torch.sh TORCH FOLDER [PYTEST OPTION...]
# TORCH: a version, as 2.11.0. FOLDER: for the environment and the build; what is there is used again. PYTHON: the interpreter
# of the environment (default python3). The CUDA part is built where nvcc is found (docs/BUILD.md says how to choose).
set -euo pipefail
usage='usage: scripts/check_torch.sh TORCH FOLDER [PYTEST OPTION...]'
version=${1:?$usage}
mkdir -p "${2:?$usage}"
folder=$(realpath "$2")
shift 2
cd "$(dirname "$0")/.."

python=$folder/env/bin/python
[[ -x $python ]] || "${PYTHON:-python3}" -m venv "$folder/env"
"$python" -m pip install --quiet --disable-pip-version-check "torch==$version" 'setuptools>=77' wheel ninja \
  pytest hypothesis

mkdir -p "$folder/tree/tests"
cp -r csrc laparoflow_kernels setup.py pyproject.toml README.md LICENSE "$folder/tree/"
cp -r tests/kernels tests/numerics.py "$folder/tree/tests/"
cd "$folder/tree"
rm -f laparoflow_kernels/*.so laparoflow_kernels/_C.json # of this checkout's own torch
time "$python" setup.py build_ext --inplace > "$folder/build.log" 2>&1
"$python" -m laparoflow_kernels
OMP_NUM_THREADS=1 "$python" -m pytest tests/kernels "$@"
