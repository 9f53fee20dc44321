#!/usr/bin/env bash
# Runs the kernel tests on one wheel beside several versions of torch and Python, each installed without a compiler.
#   scripts/check_matrix.sh WHEEL FOLDER TORCH@PYTHON... [-- PYTEST OPTION...]
# TORCH is a version such as 2.11.0, or `newest`; PYTHON an interpreter such as python3.12. FOLDER keeps an environment for
# each combination, and what is there is used again. Ends with a table, and fails if a combination did.
set -euo pipefail
usage='usage: scripts/check_matrix.sh WHEEL FOLDER TORCH@PYTHON... [-- PYTEST OPTION...]'
wheel=$(realpath "${1:?$usage}")
mkdir -p "${2:?$usage}"
folder=$(realpath "$2")
shift 2
combinations=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do combinations+=("$1"); shift; done
[ ${#combinations[@]} -gt 0 ] || { echo "$usage" >&2; exit 2; }
[ $# -eq 0 ] || shift
cd "$(dirname "$0")/.."

rows=()
failed=0
for combination in "${combinations[@]}"; do
  torch=${combination%%@*}
  interpreter=${combination#*@}
  environment=$folder/torch-$torch-${interpreter##*/}
  python=$environment/bin/python
  result=passed
  wanted=torch
  [ "$torch" = newest ] || wanted="torch==$torch"
  if [ ! -e "$environment/.ready" ]; then
    { "$interpreter" -m venv "$environment" &&
      "$python" -m pip install --quiet --disable-pip-version-check "$wanted" numpy pytest pytest-timeout hypothesis &&
      touch "$environment/.ready"; } || result='could not be installed'
  fi
  if [ "$result" = passed ]; then
    PYTHON=$python scripts/check_wheel.sh "$wheel" "$@" || result='tests failed'
    torch=$("$python" -c 'import torch; print(torch.__version__)')
  fi
  [ "$result" = passed ] || failed=1
  rows+=("| $torch | $("$interpreter" -c 'import platform; print(platform.python_version())') | $result | $(date -u +%F) |")
done
printf '%s\n' '| torch | Python | kernel tests | date |' '| --- | --- | --- | --- |' "${rows[@]}"
exit $failed
