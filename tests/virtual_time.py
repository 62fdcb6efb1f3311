"""An event loop whose time passes only while nothing can run: an hour of waiting takes no time, and is exact."""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import ParamSpec

P = ParamSpec("P")


class _Selector(selectors.SelectSelector):
    """Looks whether something is ready, and lets time pass when nothing is."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise AssertionError("everything waits for ever")
        self.passed_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._given = _Selector()
        super().__init__(self._given)

    def time(self) -> float:
        return 1000.0 + self._given.passed_s


def virtual(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Run an async test in a loop of its own with virtual time, and see that it leaves no task behind."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            await test(*args, **kwargs)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())

    del run.__wrapped__  # or pytest-asyncio would take it for a coroutine function
    vars(run)["__signature__"] = inspect.signature(test)  # for pytest, which looks for the names of fixtures
    return run


async def settled() -> None:
    """Let everything run that can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def took_s(work: Awaitable[object]) -> float:
    began_s = now_s()
    await work
    return now_s() - began_s
