#!/usr/bin/env bash
# wheel_venv.sh PYTHON VENV WHEEL TOOLS: an environment with the wheel and what it depends on, locked.
# pytest and its plugins are borrowed from the environment TOOLS by a path; a path given this way doesn't bring the
# editable install along (a .pth file isn't read from there), so `covey` can only come from the wheel.
set -euo pipefail
python=$1 venv=$2 wheel=$3 tools=$4

scripts/install.sh "$python" "$venv" -c constraints.txt "$wheel"
# The version number stays while the code changes, so the wheel has to be put in by force.
scripts/install.sh "$python" "$venv" --force-reinstall --no-deps "$wheel"

site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
site "$tools" >"$(site "$venv")/borrowed_tools.pth"

"$venv/bin/python" - "$PWD/src" <<'PYTHON'
import pathlib, sys
import covey, pytest
if pathlib.Path(covey.__file__).is_relative_to(sys.argv[1]):
    sys.exit(f"covey: the tests would see {covey.__file__} and not the wheel")
PYTHON
