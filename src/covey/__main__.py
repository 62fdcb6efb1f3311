"""``python -m covey`` is ``covey``."""

from __future__ import annotations

import sys

from covey.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
