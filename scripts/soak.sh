#!/usr/bin/env bash
# soak.sh PYTHON PYTEST-ARGUMENT...: the tests marked `soak`, then every script in tests/fuzz.
set -euo pipefail
python=$1
shift

no_tests_selected=5
status=0
"$python" -m pytest -m soak --timeout 1800 --hypothesis-profile soak "$@" || status=$?
if [[ $status != 0 && $status != "$no_tests_selected" ]]; then exit "$status"; fi

shopt -s nullglob
for script in tests/fuzz/*.py; do
    echo "covey: $script"
    "$python" "$script"
done
