#!/usr/bin/env bash
# apt_install.sh PACKAGE...: install Debian packages as root, quietly unless it fails.
set -euo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    exit 1
fi
