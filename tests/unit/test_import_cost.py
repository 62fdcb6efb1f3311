"""What a bare `import covey` costs, counted in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

MODULES_MAX = 120

# Counts what the import adds, so that what the interpreter and a site's own hooks load is not covey's to answer for.
PROBE = """
import sys
before = set(sys.modules)
import covey
added = sorted(set(sys.modules) - before)
import json
print(json.dumps(added))
"""


@cache
def modules_added() -> list[str]:
    """Return the modules that `import covey` loads; whatever it printed would break the JSON."""
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    added: list[str] = json.loads(answer.stdout)
    return added


@pytest.mark.requirement("package.import-is-cheap")
def test_importing_covey_loads_few_modules() -> None:
    assert "covey" in modules_added()
    assert len(modules_added()) <= MODULES_MAX


@pytest.mark.requirement("package.import-is-cheap")
def test_importing_covey_loads_no_third_party_but_msgspec() -> None:
    tops = {name.partition(".")[0] for name in modules_added()}
    assert tops - sys.stdlib_module_names - {"covey", "msgspec"} == set()
