"""A target under any mix of calls, failures and cancellations: nothing leaks, nothing runs twice by accident."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.virtual_time import virtual

from covey.errors import CoveyError, RefusedError, UnavailableError
from covey.resilience.breaker import Breaker
from covey.resilience.budget import Budget
from covey.resilience.hedge import Hedge
from covey.resilience.limit import Limit
from covey.resilience.policy import Policy
from covey.resilience.target import Target
from covey.resilience.timeout import timeout
from covey.testing.randomness import SeededRandomness

# What one attempt does: refuse before it has an effect, have its effect and then fail or stay silent, or answer.
HOWS = ("answer", "refuse", "ask to wait", "lose the answer", "hang", "know better")


@dataclass
class Call:
    starts_s: float
    plan: list[tuple[str, float]]
    is_idempotent: bool
    cancelled_after_s: float | None
    deadline_s: float | None
    attempts: int = 0
    effects: int = field(default=0)

    async def __call__(self) -> str:
        how, takes_s = self.plan[min(self.attempts, len(self.plan) - 1)]
        self.attempts += 1
        if takes_s:
            await asyncio.sleep(takes_s)
        if how == "refuse":
            raise OSError(errno.ECONNREFUSED, "nobody listens")
        if how == "ask to wait":
            raise RefusedError("full", retry_after_s=2.0)
        self.effects += 1
        if how == "lose the answer":
            raise OSError(errno.ECONNRESET, "gone")
        if how == "hang":
            await asyncio.get_running_loop().create_future()
        if how == "know better":
            raise ValueError("no")
        return "done"


durations = st.sampled_from([0.0, 0.01, 0.5, 3.0])
calls = st.builds(
    Call,
    starts_s=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    plan=st.lists(st.tuples(st.sampled_from(HOWS), durations), min_size=1, max_size=4),
    is_idempotent=st.booleans(),
    cancelled_after_s=st.none() | st.sampled_from([0.0, 0.01, 0.3, 1.0, 4.0]),
    deadline_s=st.none() | st.sampled_from([0.05, 1.0, 10.0]),
)
policies = st.builds(
    Policy,
    timeout_s=st.sampled_from([None, 8.0]),
    attempt_timeout_s=st.sampled_from([0.4, 2.0]),
    attempts_max=st.integers(1, 4),
    budget=st.sampled_from([None, Budget(), Budget(burst=1, floor_s=None)]),
    breaker=st.sampled_from([None, Breaker(), Breaker(refusals_max=1, calls_min=1)]),
    limit=st.sampled_from([None, Limit(), Limit(start=1, least=1, most=2, queue_max=3)]),
    hedge=st.sampled_from([None, Hedge(after_s=0.2)]),
)


async def made(target: Target, call: Call) -> str:
    await asyncio.sleep(call.starts_s)
    chosen = target.options(idempotent=call.is_idempotent)
    if call.deadline_s is None:
        return await chosen.call(call)
    with timeout(call.deadline_s):
        return await chosen.call(call)


async def ended(target: Target, call: Call) -> BaseException | str:
    task = asyncio.create_task(made(target, call))
    if call.cancelled_after_s is not None:
        asyncio.get_running_loop().call_later(call.starts_s + call.cancelled_after_s, task.cancel)
    await asyncio.wait({task}, timeout=1000.0)
    assert task.done(), "a call never ended"
    return asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()


@pytest.mark.requirement("resilience.cancel.leaks-nothing")
@pytest.mark.requirement("resilience.retry.never-twice")
@settings(max_examples=300)
@given(policies, st.lists(calls, min_size=1, max_size=12), st.integers(0, 100))
def test_nothing_leaks_and_nothing_runs_twice_by_accident(policy: Policy, mix: list[Call], seed: int) -> None:
    mix = [Call(c.starts_s, c.plan, c.is_idempotent, c.cancelled_after_s, c.deadline_s) for c in mix]

    @virtual
    async def run() -> None:
        target = Target("any", policy, randomness=SeededRandomness(seed))
        ends = await asyncio.gather(*(ended(target, call) for call in mix))
        for call, end in zip(mix, ends, strict=True):
            tries = policy.attempts_max * (2 if policy.hedge is not None and call.is_idempotent else 1)
            assert call.attempts <= tries
            assert call.is_idempotent or call.effects <= 1
            if isinstance(end, asyncio.CancelledError):
                assert call.cancelled_after_s is not None, "cancelled by nobody"
            elif end == "done":
                assert call.effects >= 1
            else:
                assert isinstance(end, (OSError, ValueError, CoveyError))
                assert not isinstance(end, UnavailableError) or call.effects == 0
        health = target.health()
        assert health.in_flight in {0, None}
        assert health.waiting == 0
        await asyncio.sleep(120)
        # Whatever happened, it can be reached again.
        good = Call(0.0, [("answer", 0.0)], is_idempotent=False, cancelled_after_s=None, deadline_s=None)
        assert await target.call(good) == "done"

    run()
