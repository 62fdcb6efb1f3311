"""Open event streams end when the server is told to stop, and not when it gives up waiting for them.

ASGI has no word for "the server goes away": servers wait for open responses first, and tell the app after. So the
signal itself must be heard. The server's own handler stays in place and runs as if nobody else listened.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final

from covey.errors import InvalidInputError
from covey.hub.app import Hub
from covey.hub.readers import Readers
from covey.ports.system import SystemRandomness

if TYPE_CHECKING:
    from collections.abc import Generator

    from covey.hub.http import ASGIApp

STOPS: Final = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """One for a program: what ends its event streams.

    Args:
        hubs: what ``covey.asgi()`` returned and the program has mounted.

    Raises:
        InvalidInputError: one of them is another app.
    """

    def __init__(self, *hubs: ASGIApp) -> None:
        self.readers = Readers(SystemRandomness())
        self._all = [self.readers]
        for hub in hubs:
            if not isinstance(hub, Hub):
                message = "Shutdown takes what covey.asgi() returned"
                raise InvalidInputError(message)
            self._all.append(hub.readers)

    def begin(self) -> None:
        """Send every reader away with ``covey.bye`` and a time to come back after; new ones at once."""
        for readers in self._all:
            readers.drain()

    @contextmanager
    def on_signals(self, *signals: signal.Signals) -> Generator[None]:
        """Begin at the first of these signals (SIGTERM and SIGINT unless told), before whoever else handles it.

        Enter it where the server's handlers are there already, which is in a lifespan, and in the main thread.
        """
        loop = asyncio.get_running_loop()
        heard = signals or STOPS
        before = {number: signal.getsignal(number) for number in heard}

        def on_signal(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.begin)
            previous = before[signal.Signals(number)]
            if callable(previous):
                previous(number, frame)
            elif previous is signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        for number in heard:
            # None stands for a handler that is not Python's: it could not be called from here, so it stays.
            if before[number] is not None:
                signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number in heard:
                if signal.getsignal(number) is on_signal:
                    signal.signal(number, before[number])
