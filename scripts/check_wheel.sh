#!/usr/bin/env bash
# Installs a wheel into a fresh environment that has no compiler and cannot see this checkout, and runs the kernel tests there
# (but for those marked `compiler`, which call one themselves).
#   scripts/check_wheel.sh WHEEL [PYTEST OPTION...]
# Packages other than laparoflow come from the environment of PYTHON (default .venv), by links: torch is large.
# At the end it pretends that the wheel needs a newer torch: the import must go on, and say which torch is needed.
set -euo pipefail
unset PYTHONPATH # what is found there would count as installed
wheel=$(realpath "${1:?usage: scripts/check_wheel.sh WHEEL [PYTEST OPTION...]}")
shift
cd "$(dirname "$0")/.."
base=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$base" -m venv --without-pip "$work/env"
python=$work/env/bin/python
places='import sysconfig; print(sysconfig.get_paths()["purelib"])'
from=$("$base" -c "$places")
to=$("$python" -c "$places")
for entry in "$from"/*; do
  case ${entry##*/} in
    *.pth | laparoflow* | __editable__* | __pycache__) ;;
    *) ln -s "$entry" "$to/" ;;
  esac
done
"$base" -m pip --python "$python" install --quiet --disable-pip-version-check --no-index --no-cache-dir "$wheel"

mkdir -p "$work/home" "$work/tree/tests"
cp -r tests/kernels tests/numerics.py "$work/tree/tests/"
cp pyproject.toml "$work/tree/" # pytest's settings
cd "$work/tree"
alone() {
  env -i HOME="$work/home" PATH="$work/env/bin" CC=/nonexistent CXX=/nonexistent OMP_NUM_THREADS=1 "$@"
}

alone "$python" - "$work/env" <<'PY'
import shutil, sys
import laparoflow_kernels
from laparoflow_kernels.backends.native import build_facts

found = [name for name in ("c++", "g++", "cc", "gcc", "clang", "nvcc") if shutil.which(name)]
assert not found, f"a compiler is in sight: {found}"
assert laparoflow_kernels.__file__.startswith(sys.argv[1]), laparoflow_kernels.__file__
assert laparoflow_kernels.backends()["native"]["cpu"] == "available", laparoflow_kernels.backends()
print("installed:", laparoflow_kernels.__version__, build_facts())
PY
alone "$python" -m pytest -m "not compiler" tests/kernels "$@"

"$base" - "$to/laparoflow_kernels/_C.json" <<'PY'
import json, pathlib, sys

path = pathlib.Path(sys.argv[1])
path.write_text(json.dumps({**json.loads(path.read_text()), "oldest_torch": "99.0"}))
PY
alone "$python" - <<'PY'
import warnings

import torch

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import laparoflow_kernels
needs = "the library laparoflow_kernels/_C.so needs torch 99.0"
assert any(needs in str(one.message) for one in said), [str(one.message) for one in said]
assert needs in laparoflow_kernels.backends()["native"]["cpu"]
embeddings, flow = torch.nn.functional.normalize(torch.randn(1, 9, 4), dim=-1).requires_grad_(), torch.zeros(1, 9, 2)
laparoflow_kernels.flow_infonce(embeddings, embeddings, flow, flow).backward()
assert torch.isfinite(embeddings.grad).all()
print("beside another torch:", laparoflow_kernels.backends()["native"]["cpu"])
PY
