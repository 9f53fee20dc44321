#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml allows into an environment of its own, and runs the quick tests there.
#   scripts/check_lower_bounds.sh FOLDER [PYTEST OPTION...]
# FOLDER keeps the environment and is used again. PYTHON: the interpreter (default python3). Needs uv, and the extension that
# `make test` has built in this checkout: the library goes with every torch from the lowest on.
set -euo pipefail
mkdir -p "${1:?usage: scripts/check_lower_bounds.sh FOLDER [PYTEST OPTION...]}"
folder=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
python=$folder/env/bin/python
if [ ! -e "$folder/.ready" ]; then
  "${PYTHON:-python3}" -m venv --clear "$folder/env"
  LAPAROFLOW_NATIVE=0 uv pip compile --quiet --python "$python" --resolution lowest-direct --extra train \
    pyproject.toml --output-file "$folder/bounds.txt"
  uv pip install --quiet --python "$python" -r "$folder/bounds.txt" \
    pytest pytest-timeout pytest-xdist hypothesis psutil onnx onnxruntime onnxscript
  touch "$folder/.ready"
fi
uv pip list --python "$python"
PYTHONPATH=$PWD OMP_NUM_THREADS=1 "$python" -m pytest -m "not slow" "$@"
