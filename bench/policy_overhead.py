"""What a policy costs a call that goes well: covey beside other libraries, alone and stacked, and a bare `await`.

Two functions are called: one that returns at once, which shows the cost of the policy itself, and one that gives the
event loop a turn, as every call over a network does at the least. Peers are taken as far as they are installed
(`bench/requirements.txt`). Rounds go through all cases in turn and the best round of each counts, since what disturbs
a round only ever makes it slower.

Libraries that offer one layer are also stacked to the four that nearly everyone wants: retry, timeout, breaker, and a
bound on calls at once. covey's default policy has these, and a deadline, a budget, a gate for rate hints and a table of
errors.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.metadata
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from covey.resilience.policy import Policy
from covey.resilience.target import Target

ROUNDS = 25
CALLS = 1500
TURN_CALLS = 400

Call = Callable[[], Awaitable[object]]
Wrap = Callable[[Call], Call]


@dataclass
class Case:
    name: str
    kind: str
    wrap: Wrap
    best_s: dict[str, float] = field(default_factory=dict)

    def take(self, function: str, took_s: float) -> None:
        self.best_s[function] = min(took_s, self.best_s.get(function, float("inf")))


async def at_once() -> int:
    return 1


async def one_turn() -> int:
    await asyncio.sleep(0)
    return 1


def covey_call(call: Call) -> Call:
    return functools.partial(Target("bench").call, call)


def covey_decorator(call: Call) -> Call:
    return Target("bench")(call)


def covey_with_listener(call: Call) -> Call:
    return functools.partial(Target("bench", Policy(on_event=lambda _: None)).call, call)


def covey_off(call: Call) -> Call:
    policy = Policy(timeout_s=None, attempt_timeout_s=None, attempts_max=1, budget=None, breaker=None, limit=None)
    return functools.partial(Target("bench", policy).call, call)


def asyncio_timeout(call: Call) -> Call:
    async def wrapped() -> object:
        async with asyncio.timeout(5):
            return await call()

    return wrapped


def semaphore(call: Call) -> Call:
    places = asyncio.Semaphore(100)

    async def wrapped() -> object:
        async with places:
            return await call()

    return wrapped


def tenacity() -> Wrap:
    from tenacity import retry, stop_after_attempt, wait_random_exponential

    wrap: Wrap = retry(stop=stop_after_attempt(3), wait=wait_random_exponential(max=5))
    return wrap


def stamina() -> Wrap:
    from stamina import retry

    wrap: Wrap = retry(on=OSError, attempts=3)
    return wrap


def backoff() -> Wrap:
    from backoff import expo, on_exception

    wrap: Wrap = on_exception(expo, OSError, max_tries=3)
    return wrap


def hyx_retry() -> Wrap:
    from hyx.retry import retry

    wrap: Wrap = retry(on=OSError, attempts=3)
    return wrap


def hyx_breaker() -> Wrap:
    from hyx.circuitbreaker import consecutive_breaker

    wrap: Wrap = consecutive_breaker(exceptions=OSError, failure_threshold=5, recovery_time_secs=30)
    return wrap


def purgatory() -> Wrap:
    from purgatory import AsyncCircuitBreakerFactory

    wrap: Wrap = AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=30)("bench")
    return wrap


def aiobreaker() -> Wrap:
    from aiobreaker import CircuitBreaker

    breaker = CircuitBreaker(fail_max=5)

    def wrap(call: Call) -> Call:
        async def wrapped() -> object:
            return await breaker.call_async(call)

        return wrapped

    return wrap


def stack_of_stamina() -> Wrap:
    retry, breaker = stamina(), aiobreaker()
    return lambda call: retry(semaphore(asyncio_timeout(breaker(call))))


def stack_of_tenacity() -> Wrap:
    retry, breaker = tenacity(), purgatory()
    return lambda call: retry(semaphore(asyncio_timeout(breaker(call))))


def stack_of_hyx() -> Wrap:
    from hyx.bulkhead import bulkhead
    from hyx.timeout import timeout

    retry, breaker = hyx_retry(), hyx_breaker()
    return lambda call: retry(bulkhead(max_concurrency=100, max_capacity=200)(breaker(timeout(5)(call))))


def stack_of_pyresilience() -> Wrap:
    from pyresilience import BulkheadConfig, CircuitBreakerConfig, RetryConfig, TimeoutConfig, resilient

    wrap: Wrap = resilient(
        retry=RetryConfig(max_attempts=3),
        timeout=TimeoutConfig(seconds=5),
        circuit_breaker=CircuitBreakerConfig(),
        bulkhead=BulkheadConfig(max_concurrent=100),
    )
    return wrap


def part_of_redress() -> Wrap:
    from redress import AsyncPolicy, AsyncRetry, Budget, CircuitBreaker, decorrelated_jitter, default_classifier

    policy = AsyncPolicy(
        retry=AsyncRetry(
            classifier=default_classifier,
            strategy=decorrelated_jitter(),
            max_attempts=3,
            deadline_s=5,
            budget=Budget(max_retries=100, window_s=60),
        ),
        circuit_breaker=CircuitBreaker(),
    )

    def wrap(call: Call) -> Call:
        async def wrapped() -> object:
            return await policy.call(call)

        return wrapped

    return wrap


OWN: dict[str, Wrap] = {
    "target.call": covey_call,
    "@target": covey_decorator,
    "target.call, with a listener": covey_with_listener,
    "target.call, every layer off": covey_off,
}
STANDARD: dict[str, Wrap] = {"asyncio.timeout": asyncio_timeout, "asyncio.Semaphore": semaphore}
ONE_LAYER: dict[str, tuple[str, Callable[[], Wrap]]] = {
    "tenacity": ("retry", tenacity),
    "stamina": ("retry", stamina),
    "backoff": ("retry", backoff),
    "hyx": ("breaker", hyx_breaker),
    "purgatory": ("breaker", purgatory),
    "aiobreaker": ("breaker", aiobreaker),
    "redress": ("retry, breaker and budget", part_of_redress),
}
STACKS: dict[str, Callable[[], Wrap]] = {
    "stamina + asyncio.timeout + aiobreaker + Semaphore": stack_of_stamina,
    "tenacity + asyncio.timeout + purgatory + Semaphore": stack_of_tenacity,
    "hyx retry + bulkhead + breaker + timeout": stack_of_hyx,
    "pyresilience retry + timeout + breaker + bulkhead": stack_of_pyresilience,
}


def cases() -> list[Case]:
    """Return covey, the standard library, and the peers that are installed."""
    found = [Case(f"covey {name}", "covey", wrap) for name, wrap in OWN.items()]
    found += [Case(name, "one layer", wrap) for name, wrap in STANDARD.items()]
    for package, (layer, load) in ONE_LAYER.items():
        try:
            name = f"{package} {importlib.metadata.version(package)}, {layer}"
            found.append(Case(name, "one layer", load()))
        except ImportError:
            continue
    for name, load in STACKS.items():
        try:
            found.append(Case(name, "stack", load()))
        except ImportError:
            continue
    return found


async def timed_s(call: Call, count: int) -> float:
    begin_s = time.perf_counter()
    for _ in range(count):
        await call()
    return (time.perf_counter() - begin_s) / count


async def measure(measured: list[Case]) -> None:
    calls: list[tuple[Case, str, Call, int]] = []
    for case in measured:
        for function, count in ((at_once, CALLS), (one_turn, TURN_CALLS)):
            call = case.wrap(function)
            assert await call() == 1, f"{case.name} does not bring the result"
            calls.append((case, function.__name__, call, count))
    for _ in range(ROUNDS):
        for case, function_name, call, count in calls:
            case.take(function_name, await timed_s(call, count))


def rows() -> list[dict[str, object]]:
    logging.disable(logging.CRITICAL)
    bare = Case("bare await", "limit", lambda call: call)
    measured = [bare, *cases()]
    asyncio.run(measure(measured))
    stacks = [case.best_s["at_once"] for case in measured if case.kind == "stack"]
    cheapest_s = min(stacks, default=float("nan"))
    found: list[dict[str, Any]] = []
    for case in measured:
        took_s, turn_s = case.best_s["at_once"], case.best_s["one_turn"]
        found.append(
            {
                "call": case.name,
                "kind": case.kind,
                "µs": took_s * 1e6,
                "times bare": took_s / bare.best_s["at_once"],
                "of the cheapest stack": took_s / cheapest_s,
                "µs more, with one turn of the loop": (turn_s - bare.best_s["one_turn"]) * 1e6,
            }
        )
    return sorted(found, key=lambda row: row["µs"])


def main() -> None:
    options = argparse.ArgumentParser(description="Measure what policies cost on the success path.")
    options.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    is_json = options.parse_args().json
    found = rows()
    if is_json:
        print(json.dumps({"title": f"A call that goes well, best of {ROUNDS} rounds", "rows": found}))
        return
    for row in found:
        print(
            "{call:<54} {µs:>8.2f} µs {times bare:>7.1f} x bare {of the cheapest stack:>6.3f} of the cheapest stack"
            " {µs more, with one turn of the loop:>8.2f} µs more with a turn".format_map(row)
        )


if __name__ == "__main__":
    main()
