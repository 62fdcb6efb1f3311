"""A target: one peer, endpoint, or provider with model and key, and the way to call it under a policy.

What is learned about it is shared by every call, so a program has one ``Target`` for each thing that can fail by
itself. This module waits and carries out; what is decided is decided in ``state.py`` and the modules it uses.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import random
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import CoroutineType
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, cast

from covey.context import FOREVER_S, Scope, scope_variable
from covey.errors import InvalidInputError
from covey.ports.clock import Clock
from covey.ports.randomness import Randomness
from covey.resilience.attempt import Attempt, Attempts
from covey.resilience.breaker import PASS
from covey.resilience.events import Hook
from covey.resilience.fields import check_instance, check_seconds
from covey.resilience.flight import Flight, JudgedError
from covey.resilience.items import Source, streamed
from covey.resilience.layers import Extras, hedged
from covey.resilience.policy import Policy
from covey.resilience.state import Health, TargetState, is_bare
from covey.resilience.waiting import rest_of, wait_for_turn, wait_in_thread
from covey.resilience.watch import LoopWatch, ThreadWatch, is_in_loop, now_here_s, task_and_watch

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])

_KEY_MAX: Final = 128


class Target:
    """One thing that can fail by itself, and what is known about it.

    Args:
        name: what events and errors call it.
        policy: what to do about failure.
        randomness: where jitter comes from.
        clock: the time of calls to plain functions; those of coroutines live in the time of their event loop.
        sleep: how such a call waits.

    Raises:
        InvalidInputError: the name is empty, or the policy is none.
    """

    __slots__ = (
        "_attempt_timeout_s",
        "_is_bare",
        "_is_idempotent",
        "_is_repeatable",
        "_is_repeating",
        "_key",
        "_state",
        "_threads",
        "_timeout_s",
        "_within_s",
    )

    def __init__(
        self,
        name: str,
        policy: Policy | None = None,
        *,
        randomness: Randomness | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not name:
            message = "a target needs a name: events and errors call it by that"
            raise InvalidInputError(message)
        check_instance("policy", policy, Policy)
        uniform = random.random if randomness is None else functools.partial(randomness.uniform, 0.0, 1.0)
        # Reentrant, as a hook may ask for the target's health.
        lock = threading.RLock()
        self._state = TargetState(name, policy or Policy(), uniform=uniform, lock=lock)
        self._threads = ThreadWatch(time.monotonic if clock is None else clock.monotonic_s, sleep)
        self._key: str | None = None
        self._is_idempotent = False
        self._is_repeatable = False
        self._timeout_s = self._state.policy.timeout_s
        self._attempt_timeout_s = self._state.policy.attempt_timeout_s
        bounds_s = (self._timeout_s, self._attempt_timeout_s)
        # Ready to be used: `call` looks at these each time.
        self._is_bare = is_bare(self._state.policy)
        self._is_repeating = self._state.policy.attempts_max > 1
        self._within_s = min((bound_s for bound_s in bounds_s if bound_s is not None), default=FOREVER_S)

    @property
    def name(self) -> str:
        """What events and errors call it."""
        return self._state.name

    @property
    def policy(self) -> Policy:
        """What it does about failure."""
        return self._state.policy

    def options(self, *, key: str | None = None, idempotent: bool | None = None) -> Target:
        """Return the same target with options for the calls made through it.

        Args:
            key: names the work, so that the other end does it once however often it is asked; it travels with each
                attempt (``covey.context.current_scope().key``). Only for one call.
            idempotent: the calls do no harm when they run twice.

        Raises:
            InvalidInputError: the key is not 1 to 128 printable ASCII characters.
        """
        if key is not None and not (0 < len(key) <= _KEY_MAX and key.isascii() and key.isprintable()):
            message = f"the key is {key!r:.140}, and must be 1 to {_KEY_MAX} printable ASCII characters"
            raise InvalidInputError(message)
        view = self._view()
        view._key = key if key is not None else self._key  # noqa: SLF001 -- our own
        view._is_idempotent = self._is_idempotent if idempotent is None else idempotent  # noqa: SLF001 -- our own
        view._is_repeatable = view._is_idempotent or view._key is not None  # noqa: SLF001 -- our own
        return view

    # ---- calls
    # One fused path: a function called in here costs more than the lines in it.
    async def call(  # noqa: C901, PLR0912, PLR0915 -- as said
        self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call ``fn`` under the policy and return its result.

        It is made again only when it surely never ran, or may run twice (``options(idempotent=True)`` or a key).

        Raises:
            UnavailableError: the policy did not let it out; it never ran.
            TimedOutError: no result within the time; ``maybe_executed`` says whether it may have run.
            Exception: what the last attempt raised. ``maybe_executed`` and ``retry_after_s`` are set on it where the
                policy knows them.
        """
        state = self._state
        outer = scope_variable.get()
        watch: LoopWatch | None = outer.home
        if watch is None:
            return await self._call_in_full(fn, *args, **kwargs)
        # What follows is all that a call costs that ends without having waited for anything: no timer, no place in
        # the limit, no task looked up. The first time that it does wait, a flight takes over.
        now_s = watch.now_s()
        limit = state.limit
        if state.lean_after_s > now_s or (limit is not None and limit.in_flight >= limit.places):
            return await self._call_in_full(fn, *args, **kwargs)
        due_s = now_s + self._within_s
        if outer.deadline_s < due_s:
            due_s = outer.deadline_s
            if due_s <= now_s:
                return await self._call_in_full(fn, *args, **kwargs)
        scope = Scope(due_s, self._is_repeating or outer.is_repeated, self._key, 1, watch)
        token = scope_variable.set(scope)
        # Any, as what a checker makes of a coroutine's type here is worse.
        waiting: Any
        try:
            waiting = fn(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 -- it is raised again below, where its flight is known
            waiting = _raising(error)
        if waiting.__class__ is CoroutineType:
            try:
                awaited = waiting.send(None)
            except StopIteration as stop:
                scope_variable.reset(token)
                breaker, budget = state.breaker, state.budget
                if breaker is not None:
                    if now_s < breaker.bucket_ends_s:
                        breaker.ok += 1
                        breaker.strikes = 0
                    else:
                        with state.lock:
                            state.answered(now_s, PASS)
                if budget is not None and budget.tokens < budget.burst and not outer.is_repeated:
                    budget.deposit()
                result: R = stop.value
                return result
            except BaseException as error:  # noqa: BLE001 -- as above
                waiting = _raising(error)
            else:
                waiting = rest_of(waiting, awaited)
        task, watch = task_and_watch()
        timeout_s = self._timeout_s
        deadline_s = outer.deadline_s if timeout_s is None else min(outer.deadline_s, now_s + timeout_s)
        flight = Flight(
            state, task, watch, self._key, self._is_repeatable, self._attempt_timeout_s, outer, now_s, deadline_s
        )
        flight.departed(scope, task, watch)
        try:
            result = await waiting
        except BaseException as error:
            failure = flight.failed(error)
            if failure is error:
                raise
            if failure is not None:
                raise failure from error
        else:
            flight.landed()
            return result
        await asyncio.sleep(flight.pause_s)
        return await self._carry(flight, fn, *args, **kwargs)

    def call_blocking(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a plain function under the policy, in this thread, and return its result; see ``call``.

        Nothing can stop a plain function: the limits in time hold between attempts, and inside as far as ``fn`` heeds
        ``covey.context.remaining_s``. In the thread of an event loop there is one attempt, as waiting would block it.
        """
        extras = Extras(self._state)
        self._state.is_shared = True
        flight = self._flight(None, self._threads)
        try:
            return self._carry_blocking(flight, extras.around_blocking(fn), args, kwargs)
        except JudgedError as judged:
            return cast("R", judged.result)
        except Exception as error:
            if extras.fallback is None:
                raise
            return cast("R", extras.fallback(error))

    def attempts(self) -> AsyncIterator[Attempt]:
        """Give attempts until one goes well, for code that is not a function of its own.

        ``async for attempt in target.attempts():`` with ``async with attempt:`` around the work. The last error is
        raised. Hedge, faults, judge and fallback need a function, and so have no part in it.
        """
        return Attempts(self._bare_flight)

    def __call__(self, fn: F, /) -> F:
        """Put a function under the policy: a coroutine function, an async generator function or a plain one.

        Raises:
            InvalidInputError: it is something else; or an async generator or coroutine hidden in a plain function.
        """
        if inspect.isgeneratorfunction(fn) or not callable(fn):
            message = f"a target decorates async def, def and async generator functions, not {fn!r:.80}"
            raise InvalidInputError(message)
        return cast("F", functools.wraps(fn)(self._wrapped(fn)))

    def stream(
        self,
        open_: Callable[[C | None], AsyncIterator[T]],
        /,
        *,
        cursor_of: Callable[[T], C] | None = None,
        is_end: Callable[[T], bool] | None = None,
        after: C | None = None,
    ) -> AsyncGenerator[T, None]:
        """Give the items of a stream, taken up again after its last item when it is cut.

        A stream is never begun anew once an item is out: without ``cursor_of`` its failure is the caller's to see.

        Args:
            open_: begins to read after a cursor; None: from the start.
            cursor_of: where an item stands.
            is_end: tells the item that says that nothing is missing; without such an item a stream was cut.
            after: where to begin.

        Raises:
            StreamCutError: it ended without that item, and can't be taken up again.
        """
        source = Source(open_, cursor_of, is_end, after)
        return streamed(self._stream_flight, self._state.policy, self.name, source)

    # ---- what is known
    def health(self) -> Health:
        """Return a snapshot of what is known."""
        with self._state.lock:
            return self._state.health(now_here_s() if is_in_loop() else self._threads.now_s())

    def ask_to_wait(self, after_s: float) -> None:
        """Keep every call back for a while: for a hint that came where a policy can't see it, as SSE's ``retry:``."""
        check_seconds("after_s", after_s)
        with self._state.lock:
            self._state.ask_to_wait(after_s, now_here_s() if is_in_loop() else self._threads.now_s())

    def listen(self, hook: Hook) -> Callable[[], None]:
        """Have every event told to ``hook``; return what ends that."""
        state = self._state
        state.hooks = (*state.hooks, hook)
        state.refresh()

        def end() -> None:
            state.hooks = tuple(other for other in state.hooks if other is not hook)
            state.refresh()

        return end

    def forget(self) -> None:
        """Begin as if nothing had happened yet; for tests, and after a target was replaced by another."""
        with self._state.lock:
            self._state.forget()

    def __repr__(self) -> str:
        return f"<Target {self.name!r}>"

    # ---- inside
    def _view(self) -> Target:
        return copy.copy(self)

    def _flight(self, task: asyncio.Task[object] | None, watch: LoopWatch | ThreadWatch) -> Flight:
        return self._flight_within(task, watch, self._timeout_s, self._attempt_timeout_s)

    def _flight_within(
        self,
        task: asyncio.Task[object] | None,
        watch: LoopWatch | ThreadWatch,
        timeout_s: float | None,
        attempt_timeout_s: float | None,
    ) -> Flight:
        outer, now_s = scope_variable.get(), watch.now_s()
        deadline_s = outer.deadline_s if timeout_s is None else min(outer.deadline_s, now_s + timeout_s)
        if self._state.home is not watch:
            self._state.settle_in(watch)
        return Flight(
            self._state, task, watch, self._key, self._is_repeatable, attempt_timeout_s, outer, now_s, deadline_s
        )

    def _bare_flight(self) -> Flight:
        return self._flight(*task_and_watch())

    def _stream_flight(self) -> Flight:
        task, watch = task_and_watch()
        # A stream as a whole has no limit but the caller's: its items have.
        return self._flight_within(task, watch, None, None)

    async def _call_in_full(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not self._is_bare:
            return await self._call_with_extras(fn, *args, **kwargs)
        return await self._carry(self._bare_flight(), fn, *args, **kwargs)

    async def _carry(self, flight: Flight, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Carry a call through its attempts, or those that are left."""
        while True:
            if not flight.take_off():
                await wait_for_turn(flight)
            try:
                result = await fn(*args, **kwargs)
            except BaseException as error:
                failure = flight.failed(error)
                if failure is error:
                    raise
                if failure is not None:
                    raise failure from error
            else:
                flight.landed()
                return result
            await asyncio.sleep(flight.pause_s)

    async def _call_with_extras(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        bare = self._view()
        bare._is_bare = True  # noqa: SLF001 -- our own
        extras = Extras(self._state)
        call = extras.around(fn)
        if extras.hedge is not None and (self._is_repeatable):
            call = hedged(self._state, call, functools.partial(bare.call, call))
        try:
            return await bare.call(call, *args, **kwargs)
        except JudgedError as judged:
            return cast("R", judged.result)
        except Exception as error:
            if extras.fallback is None:
                raise
            answer = extras.fallback(error)
            return cast("R", await answer if inspect.isawaitable(answer) else answer)

    def _carry_blocking(self, flight: Flight, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        while True:
            if not flight.take_off():
                wait_in_thread(flight, self._threads)
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                failure = flight.failed(error, can_wait=not is_in_loop())
                if failure is error:
                    raise
                if failure is not None:
                    raise failure from error
            else:
                flight.landed()
                return result
            self._threads.sleep(flight.pause_s)

    def _wrapped(self, fn: Callable[..., object]) -> Callable[..., object]:
        if inspect.isasyncgenfunction(fn):

            async def items(*args: object, **kwargs: object) -> AsyncGenerator[object]:
                async with aclosing(self.stream(lambda _: fn(*args, **kwargs))) as stream:
                    async for item in stream:
                        yield item

            return items
        if inspect.iscoroutinefunction(fn):

            async def call(*args: object, **kwargs: object) -> object:
                return await self.call(fn, *args, **kwargs)

            return call

        def call_blocking(*args: object, **kwargs: object) -> object:
            return self.call_blocking(fn, *args, **kwargs)

        return call_blocking


async def _raising(error: BaseException) -> NoReturn:
    raise error
