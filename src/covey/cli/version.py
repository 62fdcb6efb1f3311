"""`covey version`: which covey, which Python."""

from __future__ import annotations

import argparse
import platform

from covey import __version__
from covey.cli.options import Parser


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    return Parser("version", "Print the version.")


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001 -- every command has this form
    """Print it."""
    print(f"covey {__version__} (Python {platform.python_version()})")
    return 0
