"""A whole world from one seed: time, chance, network and disks, for programs that take these as arguments.

The same seed gives the same run, to the last turn of the loop: a failure is repeated by its number. Time costs nothing,
for the clock jumps whenever everybody waits.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from covey.errors import InvalidInputError, LocalProtocolError
from covey.testing.disk import Disk
from covey.testing.loop import START_S, SimLoop
from covey.testing.network import Network
from covey.testing.process import CURRENT, OUTSIDE, Process, SimulationError, current_process
from covey.testing.randomness import SeededRandomness
from covey.testing.trace import Trace

T = TypeVar("T")
Work = Awaitable[T] | Callable[[], Awaitable[T]]

DAY_S: Final = 86_400.0
_SPAWNED_MIN: Final = 1024
_WALL_START_S: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp() - START_S


class SimClock:
    """The loop's time as a ``Clock``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return self._loop.time()

    def wall_s(self) -> float:
        """See ``Clock``. It begins with the year 2026."""
        return _WALL_START_S + self._loop.time()


class SimWorld:
    """Runs a program in a world of its own, once.

    ``clock``, ``randomness``, ``network`` and ``disk`` are for the program; ``trace`` says what happened.

    Args:
        seed: everything that is left to chance comes from it.
        shuffles: tasks that wake at the same moment run in an order from the seed, not first come, first served.
    """

    def __init__(self, seed: int = 0, *, shuffles: bool = False) -> None:
        self.seed = seed
        self.loop = SimLoop(shuffle=self._chance("order") if shuffles else None)
        self.clock = SimClock(self.loop)
        self.randomness = SeededRandomness(f"{seed}/program")
        self.trace = Trace()
        # Chances of their own: a program that draws a number more does not change the weather.
        self.network = Network(self.loop, self._chance("network"), self._record)
        self.disk = Disk(self.clock, self._chance("disk"), self._record)
        self.loop.network = self.network
        self.loop.set_exception_handler(self._on_error)
        self._processes: dict[str, Process] = {}
        self._spawned: list[asyncio.Task[Any]] = []
        self._spawned_max = _SPAWNED_MIN
        self._errors: list[BaseException] = []
        self._is_over = False

    @property
    def now_s(self) -> float:
        """How many seconds have passed."""
        return self.loop.time() - START_S

    def run(self, main: Work[T], *, limit_s: float = DAY_S) -> T:
        """Run ``main`` to its end and return what it returns; everything else that still runs is then cancelled.

        Args:
            main: an awaitable, or a function that gives one. It runs outside of all hosts, and sees to what happens.
            limit_s: it is an error if that takes more simulated seconds.

        Raises:
            DeadlockError: nothing could ever happen again; every task is named with the line at which it waits.
            SimulationError: it was over the limit, or time stood still.
            BaseException: what ``main`` raised, or a task that was spawned and that nobody awaited.
        """
        if self._is_over:
            raise LocalProtocolError("a world runs once", hint="make another SimWorld with the same seed")
        self._is_over = True
        self.loop.limit_s = START_S + limit_s
        try:
            return self._run(main)
        except BaseException as error:
            error.add_note(f"in SimWorld(seed={self.seed}), after {self.loop.describe_time()}")
            raise

    def spawn(
        self,
        work: Work[T],
        *,
        host: str | None = None,
        name: str | None = None,
    ) -> asyncio.Task[T]:
        """Start a task on a host, which is started if it does not run; without one, where the caller runs.

        If it fails and nobody awaits it, ``run`` raises its error. A task whose host crashes is never done.
        """
        process = current_process() if host is None else self._process(host)
        context = copy_context()
        context.run(CURRENT.set, process)
        task = self.loop.create_task(context.run(_coroutine_of, work), name=name, context=context)
        self._record(f"{process} starts {task.get_name()}")
        if len(self._spawned) >= self._spawned_max:
            self._spawned = [task for task in self._spawned if not task.done() or _is_unseen(task)]
            self._spawned_max = max(_SPAWNED_MIN, 2 * len(self._spawned))
        self._spawned.append(task)
        return task

    def crash(self, host: str, *, power_cut: bool = False, after_turns: int | None = None) -> None:
        """Stop everything that runs on a host, at once and for good: no ``finally``, no last word.

        What its disk had committed is there when it is started again. A host that does not run stays as it is.

        Args:
            host: where ``spawn`` started something.
            power_cut: its connections are not even reset: whoever waits for it hears nothing.
            after_turns: crash only when so many more turns of its tasks and callbacks have run.
        """
        process = self._processes.get(host)
        if process is None or not process.is_alive:
            return
        if after_turns is None:
            self._crash(process, power_cut=power_cut)
        else:
            process.crash_after(after_turns, lambda: self._crash(process, power_cut=power_cut))

    def note(self, text: str) -> None:
        """Add a line of the program's own to the trace."""
        self._record(text)

    def _run(self, main: Work[T]) -> T:
        try:
            result = self.loop.run_until_complete(
                self.loop.create_task(_coroutine_of(main), name="main", context=Context())
            )
        except SimulationError as error:
            # What failed before is likely why nothing goes on.
            raise error from next(iter(self._end()), None)
        except BaseException:
            self._end()
            raise
        for unseen in self._end():
            raise unseen
        return result

    def _end(self) -> list[BaseException]:
        """Close the trace, clean up, and return the errors that nobody saw."""
        failed = [task.exception() for task in self._spawned if _is_unseen(task)]
        errors = [*self._errors, *(error for error in failed if error is not None)]
        self._spawned.clear()
        try:
            self.loop.run_to_the_end()
        finally:
            self.network.end()
            self.loop.close()
        return errors

    def _process(self, host: str) -> Process:
        if host == OUTSIDE:
            raise InvalidInputError(f"{OUTSIDE!r} is no host", hint="leave out the host to run outside of all hosts")
        process = self._processes.get(host)
        if process is None or not process.is_alive:
            process = self._processes[host] = Process(host, process.number + 1 if process is not None else 1)
            self.network.start(host)
        return process

    def _crash(self, process: Process, *, power_cut: bool) -> None:
        self._record(f"{process} {'loses power' if power_cut else 'crashes'}")
        process.is_alive = False
        self.network.crash(process, is_power_cut=power_cut)

    def _record(self, text: str) -> None:
        if not self.loop.is_ending:
            self.trace.add(self.now_s, text)

    def _chance(self, what: str) -> random.Random:
        return random.Random(f"{self.seed}/{what}")

    def _on_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep what asyncio would only log. What a network does to a server is no error of the server."""
        error = context.get("exception")
        if isinstance(error, (OSError, asyncio.CancelledError)) or self.loop.is_ending:
            self._record(f"error {error!r}")
        else:
            self._errors.append(error if isinstance(error, BaseException) else RuntimeError(context["message"]))


def _coroutine_of(work: Work[T]) -> Coroutine[Any, Any, T]:
    awaitable = work() if callable(work) else work
    return awaitable if inspect.iscoroutine(awaitable) else _awaited(awaitable)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _is_unseen(task: asyncio.Task[Any]) -> bool:
    """Whether a task has an error for which nobody asked."""
    return task.done() and not task.cancelled() and bool(getattr(task, "_log_traceback", False))
