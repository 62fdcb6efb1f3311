"""What the arguments of several commands have in common."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from covey.errors import near_hint

if TYPE_CHECKING:
    from covey.client.address import Address

_UNKNOWN: Final = re.compile(r"unrecognized arguments: (--?[^\s=]+)")


class Parser(argparse.ArgumentParser):
    """argparse, with one line for a mistake and near matches for a misspelled option."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"covey {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with status 2."""
        unknown = _UNKNOWN.match(message)
        hint = near_hint(self._near(unknown[1])) if unknown else None
        line = f"{self.prog}: {message}: {hint or f'see `{self.prog} --help`'}\n"
        self.exit(2, line if line.isprintable() else line.encode("unicode_escape").decode().replace("\\n", "\n"))

    def _near(self, option: str) -> list[str]:
        known = re.findall(r"--[a-z-]+", self.format_usage())
        return difflib.get_close_matches(option, known, n=2)


def add_hub_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which hub is meant. There is no option for a token: others could read it in the process list."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--url", metavar="URL", help="the hub; default: COVEY_URL, else this machine's")
    which.add_argument("--port", type=port, metavar="N", help="the hub on this port of this machine")


def hub_address(arguments: argparse.Namespace) -> Address:
    """Return the hub that the arguments and the environment name."""
    from covey.client.address import find_address

    return find_address(url=arguments.url, port=arguments.port)


def port(text: str) -> int:
    """Return a port that something can be reached at."""
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a port (1 to 65535)")


def say(text: str) -> None:
    """Write one line for people on stderr."""
    print(text, file=sys.stderr)
