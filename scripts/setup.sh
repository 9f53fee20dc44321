#!/usr/bin/env bash
# Sets up .venv with everything that `make demo`, `make test` and `make bench` need. Says what is missing before it starts.
#   scripts/setup.sh STAMP      STAMP is touched when all is installed
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=${1:?usage: scripts/setup.sh STAMP}
log=.venv/setup.log

fail() { printf '\nset-up failed: %s\n' "$1" >&2; exit 1; }

python=""
for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
  [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && python=$candidate && break
done
[ -n "$python" ] || fail "no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=/path/to/python3.11"
command -v "${CXX:-g++}" >/dev/null || fail "no C++ compiler (${CXX:-g++}); install g++ (for example: apt-get install g++)"
if [ ! -x .venv/bin/python ]; then
  free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
  [ "$free_kb" -ge $((12 * 1024 * 1024)) ] || fail "12 GB of free disk are needed here for PyTorch and its libraries, $((free_kb / 1024 / 1024)) GB are free"
  "$python" -m venv .venv || fail "$python cannot make a virtual environment (on Debian: apt-get install python3-venv)"
fi

step() {
  printf '%s ...\n' "$1"
  shift
  if ! "$@" >>"$log" 2>&1; then
    tail -n 25 "$log" >&2
    if grep -qiE 'name resolution|connection (refused|error)|network is unreachable|ProxyError|NewConnectionError' "$log"; then
      fail "a package could not be downloaded: no network, or the package index cannot be reached (log: $log)"
    fi
    grep -qi 'no space left' "$log" && fail "the disk is full (log: $log)"
    fail "see the last lines above (log: $log)"
  fi
}
: >"$log"
pip=".venv/bin/python -m pip --disable-pip-version-check"
step "installing the build tools" $pip install --upgrade pip "setuptools>=77" wheel ninja
step "installing PyTorch (several GB at the first time)" $pip install "torch>=2.11"
step "building the extension and installing laparoflow (minutes)" $pip install --no-build-isolation -e ".[train,test,dev]"
touch "$stamp"
