#!/usr/bin/env bash
# Sets up .venv. Says what is missing before it starts.
#   scripts/setup.sh demo|tests      touches .venv/.demo, and .venv/.tests too where that was asked for
# demo: torch and the extra `train`, and the extension for the CPU; with CUDA code only where nvidia-smi finds a GPU.
# tests: the extras `test` and `dev` too, and the CUDA code wherever nvcc can compile it.
# LAPAROFLOW_CUDA=0|1 overrides that. The extension is compiled while the other packages are downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?usage: scripts/setup.sh demo|tests}
log=.venv/setup.log
[ ! -e .venv/.tests ] || what=tests # never less than what is there

fail() { printf '\nset-up failed: %s\n' "$1" >&2; exit 1; }

python=""
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
  command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && python=$candidate && break
done
[ -n "$python" ] || fail "no Python from 3.10 to 3.14 found${PYTHON:+ as $PYTHON}; install one, or name it: make PYTHON=/path/to/python3"
command -v "${CXX:-g++}" >/dev/null || fail "no C++ compiler (${CXX:-g++}); install g++ (for example: apt-get install g++)"
if [ ! -x .venv/bin/python ]; then
  free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
  [ "$free_kb" -ge $((12 * 1024 * 1024)) ] || fail "12 GB of free disk are needed here for PyTorch and its libraries, $((free_kb / 1024 / 1024)) GB are free"
  "$python" -m venv .venv || fail "$python cannot make a virtual environment (on Debian: apt-get install python3-venv)"
fi

explain() { # FILE: the end of a step that failed
  tail -n 25 "$1" >&2
  if grep -qiE 'name resolution|connection (refused|error)|network is unreachable|ProxyError|NewConnectionError' "$1"; then
    fail "a package could not be downloaded: no network, or the package index cannot be reached (log: $1)"
  fi
  grep -qi 'no space left' "$1" && fail "the disk is full (log: $1)"
  fail "see the last lines above (log: $1)"
}
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
compile=--no-compile # Python compiles what is imported, the first time: a demo imports a small part of it
[ "$what" = demo ] || compile=--compile
install_rest() { # uv where it is installed: torch stays the one that pip chose
  if command -v uv >/dev/null; then
    .venv/bin/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >.venv/torch.txt
    env -u PYTHONPATH uv pip install --python .venv/bin/python --no-build-isolation --constraint .venv/torch.txt "$@" && return
    echo "uv failed; going on with pip"
  fi
  pip install $compile --no-build-isolation "$@"
}

extras=train
[ "$what" = demo ] || extras=train,test,dev
if [ "$what" = demo ] && [ -z "${LAPAROFLOW_CUDA:-}" ] && ! nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
  export LAPAROFLOW_CUDA=0
fi
printf 'installing PyTorch (several GB at the first time) and the build tools, with %s ...\n' "$(.venv/bin/python -V)"
pip install $compile "torch>=2.11" "setuptools>=77" wheel ninja >"$log" 2>&1 || explain "$log"
printf 'building the extension (a minute; with CUDA code several) and installing the other packages ...\n'
.venv/bin/python setup.py build_ext --inplace >.venv/build.log 2>&1 &
build=$!
LAPAROFLOW_NATIVE=0 install_rest -e ".[$extras]" >>"$log" 2>&1 || { kill "$build" 2>/dev/null || true; explain "$log"; }
wait "$build" || explain .venv/build.log
grep '^laparoflow: ' .venv/build.log || true # what was left out, and why
touch .venv/.demo
[ "$what" = demo ] || touch .venv/.tests
