"""No real waiting in a test that runs on a real loop: time jumps whenever everything waits for a timer.

For code that waits for timers alone: retries, backoff, timeouts, breakers. To code that waits for a real socket, a
thread or a child process, all timers would seem to go off at once; let such code run in a ``SimWorld``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from selectors import BaseSelector
from typing import Any
from unittest import mock

from covey.ports.clock import Clock
from covey.ports.system import SystemClock
from covey.resilience.watch import given_time
from covey.testing.process import NotSimulatedError


class _JumpingClock:
    """The machine's time and all that was jumped over."""

    def __init__(self) -> None:
        self._jumped_s = 0.0
        self._wall_ahead_s = time.time() - time.monotonic()

    def monotonic_s(self) -> float:
        return time.monotonic() + self._jumped_s

    def wall_s(self) -> float:
        return self.monotonic_s() + self._wall_ahead_s

    def jump(self, seconds: float) -> None:
        self._jumped_s += seconds


@contextmanager
def instant() -> Generator[Clock]:
    """Let the running loop's timers, and every ``SystemClock``, jump over the time in which nothing happens.

    Afterwards they are what they were before, so nothing of the block should still wait then.

    Raises:
        NotSimulatedError: the loop is not one of asyncio's own.
    """
    loop = asyncio.get_running_loop()
    selector = getattr(loop, "_selector", None)
    if not isinstance(selector, BaseSelector):
        raise NotSimulatedError(
            f"the time of a {type(loop).__name__} cannot jump", hint="use asyncio's own loop, or a SimWorld"
        )
    clock = _JumpingClock()
    really_select = selector.select

    def select(timeout: float | None = None) -> list[Any]:
        ready = really_select(timeout if timeout is None else 0)
        if not ready and timeout is not None:
            clock.jump(max(timeout, 0.0))
        return ready

    with (
        mock.patch.object(selector, "select", select),
        mock.patch.object(loop, "time", clock.monotonic_s),
        mock.patch.object(SystemClock, "monotonic_s", staticmethod(clock.monotonic_s)),
        mock.patch.object(SystemClock, "wall_s", staticmethod(clock.wall_s)),
        given_time(loop, clock.monotonic_s),
    ):
        yield clock
