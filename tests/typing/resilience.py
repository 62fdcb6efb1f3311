"""The public API of policies as users write it; checked, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

import covey
from covey.resilience import (
    Backoff,
    Breaker,
    Budget,
    Faults,
    Health,
    Hedge,
    Outcome,
    PolicyEvent,
    explain,
    row,
    shipped_outcomes,
)

api = covey.Target("api")
policy = covey.Policy(
    timeout_s=5.0,
    attempts_max=2,
    backoff=Backoff(first_s=0.2, cap_s=2.0),
    budget=Budget(ratio=0.05),
    breaker=Breaker(open_s=2.0),
    limit=None,
    hedge=Hedge(),
    outcomes=shipped_outcomes().extended([row("myapp.QuotaError", "throttled", executed="no")]),
    faults=Faults(7).at("send", p=0.1, error=ConnectionResetError),
)
model = covey.Target("provider/model/key", policy)


async def fetch(url: str, *, size: int = 10) -> bytes:
    return url.encode()[:size]


def read(path: str) -> str:
    return path


async def calls() -> None:
    assert_type(await api.call(fetch, "x", size=3), bytes)
    assert_type(await api.options(key="k", idempotent=True).call(fetch, "x"), bytes)
    assert_type(api.call_blocking(read, "x"), str)
    await api.call(fetch, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await api.call(read, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    covey.Policy(attempts="3")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@api
async def decorated(url: str) -> bytes:
    return url.encode()


@api
def plain(path: str) -> str:
    return path


@api
async def items(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def decorators() -> None:
    assert_type(await decorated("x"), bytes)
    assert_type(plain("x"), str)
    async for item in items(3):
        assert_type(item, int)
    await decorated(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def numbers(after: int | None) -> AsyncIterator[int]:
    yield (after or 0) + 1


async def streams() -> None:
    async for item in api.stream(numbers, cursor_of=lambda item: item, is_end=lambda item: item > 9):
        assert_type(item, int)


async def loops_and_deadlines() -> None:
    async for attempt in api.attempts():
        async with attempt:
            assert_type(attempt.number, int)
            attempt.reached("unsent")
    with covey.timeout(2.5):
        await api.call(fetch, "x")
    async with covey.timeout(2.5) as limit:
        assert_type(limit.seconds, float)


def told(event: PolicyEvent) -> None:
    assert_type(event.reason, str | None)


def inspection() -> None:
    end = api.listen(told)
    end()
    assert_type(api.health(), Health)
    assert_type(explain(TimeoutError()), Outcome)
