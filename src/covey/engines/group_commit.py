"""One thread that writes: whatever waits when it is free becomes one transaction.

Separate from SQLite, which is behind ``Transactions``. The loop hands requests over once a turn and gets answers back
once a transaction, so that a thousand appends cost two hand-overs between threads.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec

from covey.errors import CoveyError, EngineError

R = TypeVar("R")

# What the writer holds at once. Beyond it callers wait their turn: a commit stays short and the memory bounded.
IN_FLIGHT_MAX: Final = 4096
IN_FLIGHT_BYTES_MAX: Final = 32 << 20


class Transactions(Protocol):
    """What the thread drives; every method is called on that thread only."""

    def open(self) -> None:
        """Take hold of the storage, or raise and leave it as it was."""
        ...

    def begin(self) -> None: ...

    def write_out(self) -> None:
        """Carry out what requests put off; the last thing before ``commit``."""
        ...

    def commit(self) -> None: ...

    def rollback(self) -> None:
        """Forget everything since ``begin``; never raises."""
        ...

    def close(self) -> None:
        """Let go of the storage; never raises."""
        ...

    def explain(self, error: Exception) -> EngineError:
        """Return what to tell the caller of a request that ``error`` stopped."""
        ...


class _Request(msgspec.Struct, eq=False):
    work: Callable[[], object]
    size_bytes: int
    future: asyncio.Future[Any]
    result: object = None
    error: Exception | None = None


class GroupCommit:
    """Carries out requests on its own thread, each within a transaction that it shares with those around it.

    Open, use and close it on one event loop.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._handed_over: queue.SimpleQueue[list[_Request] | None] = queue.SimpleQueue()
        self._waiting: deque[_Request] = deque()
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._is_hand_over_due = False
        self._is_closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Start the thread; returns when the storage is open.

        Raises:
            EngineError: it can't be opened.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        stopped: asyncio.Future[None] = loop.create_future()
        thread = threading.Thread(target=self._run, args=(loop, opened, stopped), name="covey-writer", daemon=True)
        thread.start()
        try:
            await asyncio.shield(opened)
        except asyncio.CancelledError:
            # The thread may just be taking hold of the storage; nobody else would let go of it.
            self._handed_over.put(None)
            opened.add_done_callback(_take_notice)
            raise
        self._loop = loop
        self._stopped = stopped

    async def close(self) -> None:
        """Finish what was accepted, let go of the storage and end the thread."""
        if self._stopped is None:
            return
        if not self._is_closing:
            self._is_closing = True
            if not self._waiting and self._in_flight == 0:
                self._handed_over.put(None)
        await asyncio.shield(self._stopped)

    def submit(self, work: Callable[[], R], size_bytes: int = 0) -> asyncio.Future[R]:
        """Accept a request; the future gets what ``work`` returned on the writer's thread, once that is committed.

        Args:
            work: either raises a ``CoveyError`` before it wrote anything, or does its part of the transaction. Where
                the transaction fails because of another, it is rolled back and ``work`` is called again.
            size_bytes: what it holds in memory, when that is much.

        Raises:
            EngineError: the engine is not open. The future gets one when the request was not committed.
        """
        loop = self.check_open()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append(_Request(work, size_bytes, future))
        if not self._is_hand_over_due:
            self._is_hand_over_due = True
            loop.call_soon(self._hand_over)
        return future

    def check_open(self) -> asyncio.AbstractEventLoop:
        """Return the loop on which it is open.

        Raises:
            EngineError: it is not.
        """
        if self._loop is None or self._is_closing:
            raise EngineError("the engine is not open", hint="await its open() first, and use it before close()")
        return self._loop

    # ---- on the loop
    def _hand_over(self) -> None:
        self._is_hand_over_due = False
        batch = self._next_batch()
        if batch:
            self._handed_over.put(batch)
        elif self._is_closing and self._in_flight == 0:
            self._handed_over.put(None)

    def _next_batch(self) -> list[_Request]:
        """Take from those that wait what the writer may have now, first come, first served."""
        waiting = self._waiting
        batch: list[_Request] = []
        room, room_bytes = IN_FLIGHT_MAX - self._in_flight, IN_FLIGHT_BYTES_MAX - self._in_flight_bytes
        while waiting and len(batch) < room and room_bytes > 0:
            request = waiting.popleft()
            if not request.future.done():  # else its caller was cancelled before the writer had it: it never happened
                batch.append(request)
                room_bytes -= request.size_bytes
        self._in_flight += len(batch)
        self._in_flight_bytes = IN_FLIGHT_BYTES_MAX - room_bytes
        return batch

    def _finish(self, batch: list[_Request]) -> None:
        self._in_flight -= len(batch)
        for request in batch:
            self._in_flight_bytes -= request.size_bytes
            future = request.future
            if future.done():  # its caller was cancelled
                continue
            if request.error is None:
                future.set_result(request.result)
            else:
                future.set_exception(request.error)
        if self._waiting or self._is_closing:
            self._hand_over()

    # ---- on the writer's thread
    def _run(
        self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[None], stopped: asyncio.Future[None]
    ) -> None:
        try:
            self._transactions.open()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the one who waits must learn it
            _call(loop, _fail, opened, error if isinstance(error, CoveyError) else self._transactions.explain(error))
            return
        is_wanted = _call(loop, _succeed, opened)
        while is_wanted and (batch := self._take()):
            self._carry_out(batch)
            is_wanted = _call(loop, self._finish, batch)
        self._transactions.close()
        _call(loop, _succeed, stopped)

    def _take(self) -> list[_Request] | None:
        """Return what waits, and None when it is time to end."""
        batch = self._handed_over.get()
        while batch and not self._handed_over.empty():
            more = self._handed_over.get()
            if more is None:
                self._handed_over.put(None)
                break
            batch += more
        return batch

    def _carry_out(self, batch: list[_Request]) -> None:
        try:
            self._transact(batch)
        except Exception as error:  # noqa: BLE001 -- an answer is owed to every caller
            if len(batch) == 1:
                batch[0].error = self._transactions.explain(error)
                return
            # One of them stopped all: each gets a transaction of its own, in the same order.
            for request in batch:
                self._carry_out([request])

    def _transact(self, batch: list[_Request]) -> None:
        """Carry out the requests in one transaction.

        Raises:
            Exception: as a request or the storage did; nothing was kept, and it may be tried again.
        """
        transactions = self._transactions
        try:
            transactions.begin()
            for request in batch:
                request.error = None
                try:
                    request.result = request.work()
                except CoveyError as error:
                    request.error = error
            transactions.write_out()
        except Exception:
            transactions.rollback()
            raise
        try:
            transactions.commit()
        except Exception as error:  # noqa: BLE001 -- as above
            # Not tried again: what a failed commit leaves behind is the storage's word against ours.
            transactions.rollback()
            for request in batch:
                request.error = request.error or transactions.explain(error)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> bool:
    """Call it on the loop; False when there is no loop any more to call it on."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        return False
    return True


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _take_notice(future: asyncio.Future[None]) -> None:
    """Look at the error, if there is one, so that asyncio does not report it as overlooked."""
    if not future.cancelled():
        future.exception()
