"""Streams under a policy: a limit for each item, and on from the last one when the stream is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

from covey.errors import StreamCutError
from covey.resilience.flight import Flight
from covey.resilience.policy import Policy
from covey.resilience.waiting import wait_for_turn

T = TypeVar("T")
C = TypeVar("C")


class Source(Generic[C, T]):
    """Where a stream comes from, and how it is taken up again; see ``Target.stream``."""

    __slots__ = ("_cursor", "_cursor_of", "_is_end", "_open", "is_complete")

    def __init__(
        self,
        open_: Callable[[C | None], AsyncIterator[T]],
        cursor_of: Callable[[T], C] | None,
        is_end: Callable[[T], bool] | None,
        cursor: C | None,
    ) -> None:
        self._open = open_
        self._cursor_of = cursor_of
        self._is_end = is_end
        self._cursor = cursor
        # Whether the item was there that says that nothing is missing.
        self.is_complete = False

    @property
    def is_resumable(self) -> bool:
        """Whether it can be taken up after an item."""
        return self._cursor_of is not None

    def begin(self) -> AsyncIterator[T]:
        """Open it after the last item that came."""
        return self._open(self._cursor)

    def came(self, item: T) -> None:
        """Take note of an item."""
        if self._cursor_of is not None:
            self._cursor = self._cursor_of(item)
        if self._is_end is not None:
            self.is_complete = self._is_end(item)

    def check_end(self, name: str) -> None:
        """Accept that nothing more comes.

        Raises:
            StreamCutError: something is missing.
        """
        if self._is_end is not None and not self.is_complete:
            message = f"the stream from {name} ended without its last item"
            raise StreamCutError(message)


async def streamed(begin: Callable[[], Flight], policy: Policy, name: str, source: Source[C, T]) -> AsyncGenerator[T]:
    """Give the items; see ``Target.stream``."""
    flight = begin()
    while True:
        if not flight.take_off():
            await wait_for_turn(flight)
        flight.step_out()
        reading = _Reading(flight, policy, source)
        try:
            async with _closing(source.begin()) as items:
                while not isinstance(item := await reading.next_of(items), _End):
                    yield item
            source.check_end(name)
        except BaseException as error:
            failure = flight.failed(error)
            if failure is error:
                raise
            if failure is not None:
                raise failure from error
        else:
            flight.landed(reading.first_took_s)
            return
        await asyncio.sleep(flight.pause_s)


class _End:
    """Stands for the end of an iterator, so that an item may be anything."""


_END: Final = _End()


class _Reading(Generic[C, T]):
    """One opening of a stream, item by item."""

    __slots__ = ("_flight", "_policy", "_source", "first_took_s")

    def __init__(self, flight: Flight, policy: Policy, source: Source[C, T]) -> None:
        self._flight = flight
        self._policy = policy
        self._source = source
        self.first_took_s: float | None = None

    async def next_of(self, items: AsyncIterator[T]) -> T | _End:
        flight, source = self._flight, self._source
        if source.is_complete:
            return _END
        flight.step_in(self._policy.first_item_s if self.first_took_s is None else self._policy.idle_s)
        item = await anext(items, _END)
        flight.step_out()
        if isinstance(item, _End):
            return item
        if self.first_took_s is None:
            self.first_took_s = flight.opened()
        source.came(item)
        if source.is_resumable:
            flight.resumable()
        else:
            flight.phase = "delivered"
        return item


@asynccontextmanager
async def _closing(items: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T]]:
    """Close the iterator after the block, if it is of a kind that can be closed."""
    try:
        yield items
    finally:
        aclose = getattr(items, "aclose", None)
        if aclose is not None:
            await aclose()
