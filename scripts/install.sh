#!/usr/bin/env bash
# install.sh PYTHON VENV PIP-ARGUMENT...: make the virtual environment if it isn't there, and install into it.
# Works with uv where it is on the PATH, else with the venv and pip that come with Python.
set -euo pipefail
python=$1 venv=$2
shift 2

fail() {
    echo "covey: $1" >&2
    exit 1
}

command -v "$python" >/dev/null ||
    fail "no '$python' on the PATH; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12 ..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed and '$python' is $("$python" --version 2>&1); name another: make PYTHON=python3.12 ..."

if command -v uv >/dev/null; then
    [[ -x $venv/bin/python ]] || uv venv --quiet --python "$python" "$venv"
    exec uv pip install --quiet --python "$venv/bin/python" "$@"
fi

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    # Debian splits ensurepip off, and without it venv leaves half an environment behind.
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
            echo "covey: installing python3-venv" >&2
            scripts/apt_install.sh python3-venv
        fi
        "$python" -c 'import ensurepip' 2>/dev/null ||
            fail "'$python' has no ensurepip, so it can't make a virtual environment; install it (Debian: sudo apt install python3-venv) and run make again"
    fi
    echo "covey: making $venv" >&2
    "$python" -m venv --clear "$venv"
fi
exec "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@"
