"""`covey repl`: a Python session on a hub, that lives on when the terminal does not."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from covey.cli.options import Parser, add_hub_options, hub_address, say
from covey.cli.text import printable
from covey.errors import CoveyError, TeammateNotFoundError

if TYPE_CHECKING:
    from covey.client.connect import Hub
    from covey.client.session import Session

HISTORY_MODE: Final = 0o600
STOP_S: Final = 5.0
TERMINATED: Final = 143


class _Place(NamedTuple):
    """The session to talk to, and where its transcript begins when it was made just now."""

    session: Session
    after: str | None

    @property
    def is_new(self) -> bool:
        return self.after is not None


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    parser = Parser(
        "repl",
        "Start a Python session on the hub, or attach to one. It runs in its own process and goes on without you: "
        "Ctrl-D leaves it, Ctrl-C interrupts the running cell. Output goes to the terminal as it is.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="attach to this session; a new one without a name")
    parser.add_argument("--new", action="store_true", help="make a session with that NAME")
    parser.add_argument(
        "--from", dest="start", choices=("start", "now"), help="show what was written before, or only what comes"
    )
    parser.add_argument(
        "--plain", action="store_true", help="read cells from standard input and write plain text, for pipes"
    )
    add_hub_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Talk to a session; without a terminal on both sides, plainly."""
    is_plain = arguments.plain or not (sys.stdin.isatty() and sys.stdout.isatty())
    if arguments.name is None and (arguments.new or arguments.start):
        parser().error("--new and --from need the NAME of a session")
    if arguments.new and arguments.start:
        parser().error("a new session has nothing before it to start from")
    return asyncio.run(_run(arguments, is_plain=is_plain))


async def _run(arguments: argparse.Namespace, *, is_plain: bool) -> int:
    from covey.client.connect import Hub

    async with Hub(hub_address(arguments)) as hub:
        place = await _find(hub, arguments)
        if is_plain:
            return await _run_plain(hub, place, arguments)
        return await _run_terminal(place, arguments)


async def _find(hub: Hub, arguments: argparse.Namespace) -> _Place:
    from covey.client.session import Session
    from covey.ports.system import SystemRandomness

    name: str | None = arguments.name
    randomness = SystemRandomness()
    if name is None or arguments.new:
        spawned = await hub.spawn("repl", name)
        return _Place(Session(hub, spawned.name, randomness=randomness), spawned.cursor)
    try:
        row = await hub.teammate(name)
    except TeammateNotFoundError as error:
        near = f"{error.hint.rstrip('?')}, or " if error.hint and "did you mean" in error.hint else ""
        message = f"there is no session {name!r}"
        raise TeammateNotFoundError(message, hint=f"{near}make it with `covey repl --new {name}`") from error
    if row.kind != "repl":
        message = f"{name!r} is no session but {row.kind or 'another kind of teammate'}"
        raise CoveyError(message, hint="`covey ps` lists who is of kind repl")
    return _Place(Session(hub, name, randomness=randomness), None)


async def _run_plain(hub: Hub, place: _Place, arguments: argparse.Namespace) -> int:
    from covey.cli.plain import Plain

    plain = Plain(place.session, after=place.after, is_alone=place.is_new, is_from_start=arguments.start == "start")
    is_terminated = False
    task = asyncio.current_task()

    def terminate() -> None:
        nonlocal is_terminated
        is_terminated = True
        if task is not None:
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, terminate)
    try:
        return await plain.run()
    except asyncio.CancelledError:
        if is_terminated:
            return TERMINATED
        raise
    finally:
        if arguments.name is None:
            # Nobody knows its name, so nobody would come back to it.
            with contextlib.suppress(CoveyError):
                await hub.stop(place.session.name, timeout_s=STOP_S)


async def _run_terminal(place: _Place, arguments: argparse.Namespace) -> int:
    from covey.cli.terminal import Terminal

    session = place.session
    flags = f" --url {arguments.url}" if arguments.url else f" --port {arguments.port}" if arguments.port else ""
    say(f"session {printable(session.name)}: Ctrl-D leaves it running, `covey stop{flags} {session.name}` ends it")
    terminal = Terminal(
        session,
        after=place.after,
        is_from_start=not place.is_new and arguments.start != "now",
        is_new=place.is_new,
        history=_history_file(),
        flags=flags,
    )
    return await terminal.run()


def _history_file() -> Path | None:
    """Return the file for what was typed, which only its owner can read; None where it can't be made."""
    from covey.client.address import state_folder

    path = state_folder() / "repl_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, HISTORY_MODE)
        os.fchmod(descriptor, HISTORY_MODE)
        os.close(descriptor)
    except OSError:
        return None
    return path
