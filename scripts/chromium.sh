#!/usr/bin/env bash
# The browser tests drive Debian's Chromium. It is never skipped: without it the tests fail here, with one line.
set -euo pipefail
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "covey: installing chromium for the browser tests" >&2
    exec scripts/apt_install.sh chromium
fi
echo "covey: the browser tests need Chromium; install it (Debian: sudo apt install chromium) and run make again" >&2
exit 1
