"""The layers that few policies have, put around the function that is called: faults, judge, hedge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

from covey.resilience.flight import JudgedError
from covey.resilience.state import TargetState
from covey.resilience.watch import task_and_watch

P = ParamSpec("P")
R = TypeVar("R")


class Extras:
    """These layers of one policy."""

    __slots__ = ("_state", "fallback", "hedge")

    def __init__(self, state: TargetState) -> None:
        self._state = state
        self.fallback = state.policy.fallback
        self.hedge = state.policy.hedge

    def around(self, fn: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Return the function with faults and judge."""

        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if await self._suffers("send"):
                await fn(*args, **kwargs)
            result = await fn(*args, **kwargs)
            await self._suffers("receive")
            return self._judged(result)

        return call

    def around_blocking(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Return the plain function with judge, and with those faults that a plain function can have."""
        if self._state.policy.judge is None and self._state.plan is None:
            return fn

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            self._raises("send")
            result = fn(*args, **kwargs)
            self._raises("receive")
            return self._judged(result)

        return call

    def _judged(self, result: R) -> R:
        judge = self._state.policy.judge
        outcome = judge(result) if judge is not None else None
        if outcome is not None:
            raise JudgedError(outcome, result)
        return result

    async def _suffers(self, point: str) -> bool:
        """Let happen what the plan has for this point; whether the call is made twice."""
        fault = self._state.plan.draw(point) if self._state.plan is not None else None
        if fault is None:
            return False
        if fault.delay_s is not None:
            await asyncio.sleep(fault.delay_s)
        error = fault.exception()
        if error is not None:
            raise error
        if fault.drop or fault.stall:
            # To the caller both are the same: nothing comes, until the attempt's time is over.
            await asyncio.get_running_loop().create_future()
        return fault.duplicate

    def _raises(self, point: str) -> None:
        fault = self._state.plan.draw(point) if self._state.plan is not None else None
        error = fault.exception() if fault is not None else None
        if error is not None:
            raise error


def hedged(
    state: TargetState, fn: Callable[P, Awaitable[R]], again: Callable[P, Awaitable[R]]
) -> Callable[P, Awaitable[R]]:
    """Return ``fn`` with a second try, ``again``, beside it when it is slow."""

    async def race(*args: P.args, **kwargs: P.kwargs) -> R:
        delay_s = state.hedge.delay_s() if state.hedge is not None else None
        if delay_s is None:
            return await fn(*args, **kwargs)
        _, watch = task_and_watch()
        async with _racing() as tries:
            first = tries.start(fn(*args, **kwargs))
            await asyncio.wait({first}, timeout=delay_s)
            if first.done() or not state.pay(watch.now_s()):
                return await first
            state.tell("hedge", watch.now_s(), wait_s=delay_s)
            return await _first_success(first, tries.start(again(*args, **kwargs)))

    return race


class _Tries:
    """Tasks that race each other."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()

    def start(self, awaitable: Awaitable[R]) -> asyncio.Task[R]:
        async def run() -> R:
            return await awaitable

        task = asyncio.create_task(run())
        self.tasks.add(task)
        return task


@asynccontextmanager
async def _racing() -> AsyncGenerator[_Tries, None]:
    """Leave no try behind, however the block ends."""
    tries = _Tries()
    try:
        yield tries
    finally:
        for task in tries.tasks:
            task.cancel()
        while not all(task.done() for task in tries.tasks):
            await asyncio.wait(tries.tasks)
        for task in tries.tasks:
            # Read, or asyncio complains about an error that nobody looked at.
            _ = task.cancelled() or task.exception()


async def _first_success(first: asyncio.Task[R], second: asyncio.Task[R]) -> R:
    await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    winner, other = (first, second) if first.done() else (second, first)
    if winner.exception() is not None:
        # An empty budget or an open breaker of the second must never end the first.
        await asyncio.wait({other})
        winner = other if other.exception() is None else first
    return winner.result()
