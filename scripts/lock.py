"""Turn pip's resolution report (on standard input) into constraints.txt (on standard output).

Only names and versions are kept: where a package is fetched from, and how that place is trusted, is the
business of the machine that installs it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

HEADER = """\
# Every version that `make up`, `make test` and the extras install. Written by `make lock`; not edited by hand.
"""


def constraints(report: dict[str, Any]) -> list[str]:
    """Return the sorted `name==version` lines of everything but covey itself."""
    packages = (entry["metadata"] for entry in report["install"])
    pins = {package["name"].lower().replace("_", "-"): package["version"] for package in packages}
    return [f"{name}=={version}" for name, version in sorted(pins.items()) if name != "covey"]


if __name__ == "__main__":
    sys.stdout.write(HEADER + "\n".join(constraints(json.load(sys.stdin))) + "\n")
