"""Attempts as a loop, for code that is not a function of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from covey.errors import LocalProtocolError
from covey.resilience.flight import Flight
from covey.resilience.outcome import Phase
from covey.resilience.waiting import wait_for_turn


class Attempt:
    """One attempt, as ``Target.attempts`` gives it; entered once."""

    __slots__ = ("_flight", "_is_entered", "_is_over", "will_repeat")

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self._is_entered = False
        self._is_over = False
        # Set when it failed and another one follows.
        self.will_repeat = False

    @property
    def number(self) -> int:
        """Which one it is, counted from 1."""
        return self._flight.number

    @property
    def is_over(self) -> bool:
        """Whether it was entered and left."""
        return self._is_over

    def reached(self, phase: Phase) -> None:
        """Say how far it got, which says more about a failure than the error does: see ``outcome.Phase``."""
        self._flight.phase = phase

    async def __aenter__(self) -> Self:
        if self._is_entered:
            message = "an attempt is entered once; the next one comes from the loop"
            raise LocalProtocolError(message)
        self._is_entered = True
        if not self._flight.take_off():
            await wait_for_turn(self._flight)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._is_over = True
        if error is None:
            self._flight.landed()
            return False
        failure = self._flight.failed(error)
        if failure is not None and failure is not error:
            raise failure from error
        self.will_repeat = failure is None
        return self.will_repeat


class Attempts:
    """The loop over them; see ``Target.attempts``."""

    __slots__ = ("_attempt", "_begin", "_flight")

    def __init__(self, begin: Callable[[], Flight]) -> None:
        self._begin = begin
        self._flight: Flight | None = None
        self._attempt: Attempt | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt:
        last = self._attempt
        if self._flight is None or last is None:
            self._flight = self._begin()
        elif not last.is_over:
            message = "the attempt was not entered: put `async with attempt:` around the work"
            raise LocalProtocolError(message)
        elif not last.will_repeat:
            raise StopAsyncIteration
        else:
            await asyncio.sleep(self._flight.pause_s)
        self._attempt = Attempt(self._flight)
        return self._attempt
