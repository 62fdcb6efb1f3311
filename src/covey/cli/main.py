"""The `covey` command itself: finds the subcommand, and turns what goes wrong into one line.

Only the module of the subcommand that was asked for is imported, so that `covey --help` is there at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

from covey import __version__
from covey.errors import CoveyError, near_hint

if TYPE_CHECKING:
    import argparse

COMMANDS: Final[Mapping[str, str]] = {
    "serve": "run a hub on this machine, in the foreground",
    "repl": "start a Python session on a hub, or attach to one",
    "ps": "list who is on the hub: sessions and other teammates",
    "stop": "stop sessions and other teammates by name",
    "why": "say what an error means, and what a policy does about it",
    "version": "print the version",
}
# As a shell reports a program that SIGPIPE or SIGINT ended.
BROKEN_PIPE: Final = 141
INTERRUPTED: Final = 130
USAGE: Final = 2


class Command(Protocol):
    """What the module of a subcommand offers."""

    def parser(self) -> argparse.ArgumentParser:
        """Return what reads its arguments."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it and return the exit status."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run `covey` with these arguments and return its exit status."""
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
        # Now and not at exit, where a reader that went away could only be complained about.
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_stdout()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except CoveyError as error:
        return complain(f"{error.message}: {error.hint}" if error.hint else error.message)
    return status


def complain(message: str, *, status: int = 1) -> int:
    """Say what went wrong as one line on stderr and return the exit status for it."""
    from covey.cli.text import printable

    print(f"covey: {printable(message)}", file=sys.stderr)
    return status


def _run(argv: list[str]) -> int:
    first = argv[0] if argv else "--help"
    if first in {"-h", "--help", "help"}:
        print(_help(), end="")
        return 0 if argv else USAGE
    name = "version" if first in {"-V", "--version"} else first
    if name not in COMMANDS:
        return _unknown(name)
    command = cast("Command", importlib.import_module(f"covey.cli.{name}"))
    try:
        arguments = command.parser().parse_args(argv[1:])
    except SystemExit as exit_:
        # How argparse ends after `--help` and after a wrong argument, which it has told of.
        return exit_.code if isinstance(exit_.code, int) else 0
    return command.run(arguments)


def _unknown(name: str) -> int:
    import difflib

    if name.startswith("-"):
        return complain("options come after the command: see `covey --help`", status=USAGE)
    hint = near_hint(difflib.get_close_matches(name, COMMANDS, n=2)) or "see `covey --help`"
    return complain(f"there is no command {name[:80]!r}: {hint}", status=USAGE)


def _help() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"covey {__version__}: live Python sessions and teammates that survive transient failures",
            "",
            "usage: covey COMMAND [OPTIONS]",
            "",
            *(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()),
            "",
            "`covey COMMAND --help` says more. The hub is this machine's, or that of COVEY_URL and COVEY_TOKEN.",
            "",
        ]
    )


def _leave_stdout() -> None:
    """Point stdout at nothing, or the interpreter would write what is left in its buffer once more, and complain."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
