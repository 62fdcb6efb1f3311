"""The read end of a child's standard output or error, in the host's event loop.

The host and not the child holds it: what a child wrote before it crashed is still in the pipe, and code in C that
writes while it holds the interpreter lock cannot lock itself up.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
from collections.abc import Callable
from typing import Final

# What one turn of the loop takes, so that a child that writes for ever starves nobody.
READ_BYTES: Final = 64 << 10
# How long a pipe that was read empty is left alone: many small writes become one read and one event.
WINDOW_S: Final = 0.004


class OutputPipe:
    """Calls ``on_data`` with what the child writes.

    Args:
        fd: the read end; becomes this object's own.
        on_data: called with up to 64 KiB, in order.
        loop: the running loop.
        window_s: see ``WINDOW_S``.
    """

    def __init__(
        self, fd: int, on_data: Callable[[bytes], None], *, loop: asyncio.AbstractEventLoop, window_s: float = WINDOW_S
    ) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._on_data = on_data
        self._loop = loop
        self._window_s = window_s
        self._count = array.array("i", [0])
        self._pause: asyncio.TimerHandle | None = None
        self._is_open = True
        loop.add_reader(fd, self._on_readable)

    def read_waiting(self) -> None:
        """Take exactly the bytes that are in the pipe now.

        Not until the pipe is empty: with a writer in the background that would have no end.
        """
        if not self._is_open:
            return
        fcntl.ioctl(self._fd, termios.FIONREAD, self._count)
        waiting = self._count[0]
        while waiting > 0:
            taken = self._read(min(waiting, READ_BYTES))
            if taken == 0:
                return
            waiting -= taken

    def close(self) -> None:
        """Let go of the pipe; whoever still writes into it gets a broken pipe. Closing twice is harmless."""
        if self._is_open:
            self._is_open = False
            if self._pause is not None:
                self._pause.cancel()
            self._loop.remove_reader(self._fd)
            os.close(self._fd)

    def _on_readable(self) -> None:
        if self._read(READ_BYTES) < READ_BYTES and self._is_open:
            self._loop.remove_reader(self._fd)
            self._pause = self._loop.call_later(self._window_s, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._fd, self._on_readable)

    def _read(self, count: int) -> int:
        try:
            data = os.read(self._fd, count)
        except (BlockingIOError, InterruptedError):
            return 0
        if data:
            self._on_data(data)
        else:
            self.close()
        return len(data)
