"""Time as a policy lives in it: of an event loop, with one timer for all that is due there, or of a thread.

Arming a timer for each call is most of what a policy costs. Here a call that has a limit is written down, and one
timer per event loop looks through the list when the first of it is due; since most calls are done by then, it hardly
ever runs. A loop that keeps a time of its own, as in simulations, is asked for that; all others have the machine's.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from covey.context import Scope, scope_variable
from covey.errors import LocalProtocolError

# Limits that are due closer together than this are looked at together.
_GRAIN_S: Final = 0.005
_NEVER_S: Final = float("inf")


class LoopTicket:
    """One who waits in an event loop."""

    __slots__ = ("_future", "_thread", "_watch")

    def __init__(self, watch: LoopWatch) -> None:
        self._watch = watch
        self._thread = threading.get_ident()
        self._future: asyncio.Future[bool] = watch.loop.create_future()

    def grant(self) -> None:
        """See ``state.Ticket``."""
        if threading.get_ident() == self._thread:
            self._settle()
        else:
            self._watch.loop.call_soon_threadsafe(self._settle)

    async def granted(self, limit_s: float) -> None:
        """Return when it was granted, or when the time is over."""
        timer = self._watch.loop.call_later(limit_s, self._settle) if limit_s < _NEVER_S else None
        try:
            await self._future
        finally:
            if timer is not None:
                timer.cancel()

    def _settle(self) -> None:
        if not self._future.done():
            self._future.set_result(True)


class ThreadTicket:
    """One who waits in a thread."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def grant(self) -> None:
        """See ``state.Ticket``."""
        self._event.set()

    def granted(self, limit_s: float) -> None:
        """Return when it was granted, or when the time is over."""
        self._event.wait(min(limit_s, threading.TIMEOUT_MAX))


class LoopWatch:
    """The time of one event loop.

    A piece of a task that has a limit is written down in ``due`` under its scope, with the task and how often that had
    been cancelled before. ``call`` of a target does so by itself, which is why ``due`` and ``next_s`` are open.
    """

    __slots__ = ("__weakref__", "_expired", "_timer", "due", "loop", "next_s", "now_s")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.now_s: Callable[[], float] = loop.time if _keeps_own_time(loop) else time.monotonic
        self.due: dict[Scope, tuple[asyncio.Task[object], int]] = {}
        self.next_s = _NEVER_S
        self._expired: dict[Scope, tuple[asyncio.Task[object], int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def write_down(self, scope: Scope, task: asyncio.Task[object]) -> None:
        """Cut the task when the deadline of the scope passes, unless it is forgotten before."""
        self.due[scope] = (task, task.cancelling())
        if scope.deadline_s < self.next_s:
            self.arm(scope.deadline_s)

    def arm(self, due_s: float) -> None:
        """Look through the list at ``due_s``; called when that is before ``next_s``."""
        if self._timer is not None:
            self._timer.cancel()
        self.next_s = due_s
        self._timer = self.loop.call_later(max(due_s - self.now_s(), 0.0), self._look)

    def forget(self, scope: Scope, error: BaseException | None) -> bool:
        """Take the scope off the list; whether ``error`` is nothing but the cut that it asked for.

        As `asyncio.timeout` does it: a cancellation from elsewhere, even at the same moment, stays one.
        """
        if self.due.pop(scope, None) is not None:
            return False
        cut = self._expired.pop(scope, None)
        if cut is None:
            return False
        task, cancelling = cut
        return task.uncancel() <= cancelling and isinstance(error, asyncio.CancelledError)

    def ticket(self) -> LoopTicket:
        """Return what waits here."""
        return LoopTicket(self)

    def _look(self) -> None:
        now_s = self.now_s()
        for scope in [scope for scope in self.due if scope.deadline_s <= now_s]:
            self._expired[scope] = cut = self.due.pop(scope)
            cut[0].cancel()
        self._timer = None
        self.next_s = _NEVER_S
        if self.due:
            self.arm(max(min(scope.deadline_s for scope in self.due), now_s + _GRAIN_S))


class ThreadWatch:
    """The time of threads. Nothing there can be cut, so nothing is written down."""

    __slots__ = ("now_s", "sleep")

    def __init__(
        self, now_s: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.now_s = now_s
        self.sleep = sleep

    def forget(self, scope: Scope, error: BaseException | None) -> bool:  # noqa: ARG002, PLR6301, RUF100 -- as above
        """See ``LoopWatch``: nothing of it was written down."""
        return False

    def ticket(self) -> ThreadTicket:
        """Return what waits here."""
        return ThreadTicket()


# By the id of the loop, as a watch holds its loop and would keep it as a key for ever.
_known: Final[WeakValueDictionary[int, LoopWatch]] = WeakValueDictionary()


def task_and_watch() -> tuple[asyncio.Task[object], LoopWatch]:
    """Return the task that runs and the time of its loop.

    Raises:
        LocalProtocolError: no task runs here.
    """
    task = asyncio.current_task()
    if task is None:
        message = "a call with a policy needs a task to run in"
        raise LocalProtocolError(message, hint="start it with asyncio.run() or asyncio.create_task()")
    scope = scope_variable.get()
    watch: LoopWatch | None = scope.home
    loop = task.get_loop()
    if watch is None or watch.loop is not loop:
        watch = _watch_of(loop)
        # The tasks that this one starts inherit it, and they live in the same loop. A context that was carried into
        # another loop is set right here, as soon as a call there has to wait.
        scope_variable.set(msgspec.structs.replace(scope, home=watch))
    return task, watch


@contextmanager
def given_time(loop: asyncio.AbstractEventLoop, now_s: Callable[[], float]) -> Generator[None]:
    """Have the calls in a loop live by this time in the block, as a test does that lets the loop's timers jump."""
    watch = _watch_of(loop)
    before = watch.now_s
    watch.now_s = now_s
    try:
        yield
    finally:
        watch.now_s = before


def now_here_s() -> float:
    """Return the time that calls from here live in: the loop's where one runs, else the machine's."""
    return task_and_watch()[1].now_s() if is_in_loop() else time.monotonic()


def is_in_loop() -> bool:
    """Tell whether a task of an event loop runs in this thread."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def _watch_of(loop: asyncio.AbstractEventLoop) -> LoopWatch:
    watch = _known.get(id(loop))
    if watch is None or watch.loop is not loop:
        _known[id(loop)] = watch = LoopWatch(loop)
    return watch


def _keeps_own_time(loop: asyncio.AbstractEventLoop) -> bool:
    return isinstance(loop, asyncio.BaseEventLoop) and type(loop).time is not asyncio.BaseEventLoop.time
