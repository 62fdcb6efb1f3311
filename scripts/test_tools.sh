#!/usr/bin/env bash
# What the tests drive beside Python: Debian's Chromium, curl, openssl, strace. Never skipped: what is missing is installed or said.
set -euo pipefail
missing=()
found=
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then found=yes; fi
done
[[ $found ]] || missing+=(chromium)
for name in curl openssl strace; do
    command -v "$name" >/dev/null || missing+=("$name")
done
if [[ ${#missing[@]} == 0 ]]; then exit 0; fi
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "covey: installing ${missing[*]} for the tests" >&2
    exec scripts/apt_install.sh "${missing[@]}"
fi
echo "covey: the tests need ${missing[*]}; install (Debian: sudo apt install ${missing[*]}) and run make again" >&2
exit 1
