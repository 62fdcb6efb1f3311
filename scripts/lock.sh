#!/usr/bin/env bash
# lock.sh PYTHON FILE: resolve covey with its tools and all its extras, from nothing, and write the versions to FILE.
set -euo pipefail
python=$1 file=$2
report=$(mktemp)
trap 'rm -f "$report"' EXIT
# uv's environments come without pip, whose resolution report this needs.
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
"$python" -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --report "$report" \
    '.[dev,ipython,jupyter,mcp,otel,swarm]'
"$python" scripts/lock.py <"$report" >"$file.new"
mv "$file.new" "$file"
echo "covey: $file holds $(grep -c == "$file") versions"
