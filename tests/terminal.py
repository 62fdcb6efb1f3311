"""A program on a terminal of its own, as a person sees it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from fcntl import ioctl
from typing import Final, Self

# Escape sequences of a terminal: colours, movements, titles.
_ESCAPES: Final = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_=>]")
WAIT_S: Final = 20.0


class Terminal:
    """Start ``command`` on a pseudo terminal, type into it and read what it shows."""

    def __init__(self, command: Sequence[str], *, env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**env, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=_own_terminal,  # noqa: PLW1509 -- no other thread runs in a test
        )
        os.close(slave)
        self._raw = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=10)
        os.close(self._master)

    @property
    def shown(self) -> str:
        """All that was shown so far, without escape sequences."""
        return _ESCAPES.sub(b"", self._raw).decode("utf-8", "replace").replace("\r", "")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, is_there: str | Callable[[str], object], *, wait_s: float = WAIT_S) -> str:
        """Read until the text, or what the function looks for, is shown."""
        end_s = time.monotonic() + wait_s
        found = (lambda shown: is_there in shown) if isinstance(is_there, str) else is_there
        while not found(self.shown):
            remaining_s = end_s - time.monotonic()
            assert remaining_s > 0, f"{is_there!r} did not show within {wait_s} s:\n{self.shown[-3000:]}"
            if not self._read(remaining_s):
                assert found(self.shown), f"the program ended before {is_there!r} showed:\n{self.shown[-3000:]}"
        return self.shown

    def wait_closed(self) -> int:
        """Read to the end and return the exit status."""
        while self._read(WAIT_S):
            pass
        return self.process.wait(timeout=WAIT_S)

    def kill(self) -> None:
        """Kill it as the kernel would, with no chance to say anything."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=WAIT_S)

    def _read(self, wait_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], wait_s)
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other end is closed
            return False
        self._raw += data
        if b"\x1b[6n" in data:  # a program may ask where the cursor is; a terminal answers
            os.write(self._master, b"\x1b[1;1R")
        return bool(data)


def _own_terminal() -> None:
    """Make the pseudo terminal the new session's own, so that Ctrl-C typed into it is a signal."""
    ioctl(0, termios.TIOCSCTTY, 0)
