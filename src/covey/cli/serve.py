"""`covey serve`: run a hub in the foreground and say how to reach it."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from covey.cli.options import Parser
from covey.cli.text import printable
from covey.client.address import DEFAULT_HOST, DEFAULT_PORT, state_folder

if TYPE_CHECKING:
    from types import FrameType

    from covey.assembly import Running, Status

REDRAW_S: Final = 0.5
_CLEAR_LINE: Final = "\r\x1b[2K"


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    parser = Parser(
        "serve", "Run a hub on this machine, in the foreground. Ctrl-C drains it and leaves nothing behind."
    )
    parser.add_argument("--host", default=DEFAULT_HOST, metavar="ADDRESS", help=f"listen here ({DEFAULT_HOST})")
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, metavar="N", help=f"and here ({DEFAULT_PORT}); 0 takes a free one"
    )
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="keep the token here; default: COVEY_STATE")
    parser.add_argument(
        "--public-url", metavar="URL", help="how clients outside reach it, when a proxy stands before it"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="listen without TLS on an address that other machines reach"
    )
    parser.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="speak TLS with this certificate (PEM, with its chain)"
    )
    parser.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="the key of the certificate, where it is not in that file"
    )
    parser.add_argument("--grace", type=_seconds, default=5.0, metavar="S", help="how long draining may take (5)")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal says stop."""
    from covey import assembly

    settings = assembly.Settings(
        host=arguments.host,
        port=arguments.port,
        state_folder=arguments.state or state_folder(),
        insecure=arguments.insecure,
        public_url=arguments.public_url,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        grace_s=arguments.grace,
    )
    screen = Screen(sys.stdout)
    signals = _Signals()

    def on_ready(running: Running) -> None:
        signals.hand_over()
        screen.show(running)

    assembly.serve(settings, on_ready=on_ready)
    screen.finish()
    return 0


class Screen:
    """What the operator sees: how to reach the hub, then, on a terminal, one line that says what it does."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._is_live = file.isatty()
        self._live: asyncio.Task[None] | None = None

    def show(self, running: Running) -> None:
        """Say how to reach it; called in the hub's event loop."""
        # The names of files and addresses are the operator's own, and still may hold anything.
        token = shlex.quote(str(running.token_path))
        port = "" if running.port == DEFAULT_PORT else f" --port {running.port}"
        self._write(
            f"covey serves {printable(running.url)}\n\n"
            "open that page, or in another terminal:\n"
            f"  covey repl{port}\n"
            f'  curl -N -H "Authorization: Bearer $(cat {token})" -H "Accept: text/event-stream" '
            f"'{running.address}/v1/streams/team?from=start'\n\n"
        )
        if self._is_live:
            self._live = asyncio.get_running_loop().create_task(self._follow(running))

    def finish(self) -> None:
        """Say that it is over."""
        clear = _CLEAR_LINE if self._is_live else ""
        self._write(f"{clear}the hub has drained and left nothing running\n")

    async def _follow(self, running: Running) -> None:
        shown = ""
        while True:
            line = status_line(running.status())
            if line != shown:
                self._write(_CLEAR_LINE + line)
                shown = line
            await asyncio.sleep(REDRAW_S)

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


def status_line(status: Status) -> str:
    """Return what the hub does, in one line."""
    counts = ", ".join(
        [
            _counted(status.sessions, "session"),
            _counted(status.readers, "reader"),
            _counted(status.streams, "stream"),
            _counted(status.events_total, "event"),
        ]
    )
    return f"draining: {counts}" if status.is_draining else f"{counts}  (Ctrl-C stops)"


class _Signals:
    """Makes signals end the hub in order, however early or late they come.

    The server takes SIGINT and SIGTERM while it serves and sends them again when it is done. Sent again they would
    end this process before the sessions are stopped, so by then they mean nothing any more.
    """

    def __init__(self) -> None:
        self._is_serving = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        # A closed terminal ends the hub as Ctrl-C does; under nohup it is ignored, and stays so.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, _on_hangup)

    def hand_over(self) -> None:
        """From now on the server hears the signals."""
        self._is_serving = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- a signal handler
        if not self._is_serving:
            raise KeyboardInterrupt


def _on_hangup(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- a signal handler
    signal.raise_signal(signal.SIGTERM)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text[:9]) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a port (0 to 65535)")


def _seconds(text: str) -> float:
    try:
        value = float(text[:40])
    except ValueError:
        value = -1.0
    if 0 <= value <= 3600:
        return value
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of seconds from 0 to 3600")
