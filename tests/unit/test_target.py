"""`resilience/target.py` and its parts: what a policy does to calls, in virtual time."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from tests.virtual_time import now_s, settled, took_s, virtual

from covey.context import current_scope, detached, remaining_s
from covey.errors import InvalidInputError, LocalProtocolError, RefusedError, StreamCutError, TimedOutError
from covey.errors import UnavailableError as Unavailable
from covey.resilience.backoff import Backoff
from covey.resilience.breaker import Breaker
from covey.resilience.budget import Budget
from covey.resilience.events import PolicyEvent
from covey.resilience.faults import Faults
from covey.resilience.hedge import Hedge
from covey.resilience.limit import Limit
from covey.resilience.outcome import Outcome, shipped
from covey.resilience.policy import Policy
from covey.resilience.target import Target
from covey.resilience.timeout import timeout
from covey.resilience.watch import given_time
from covey.testing.clock import ManualClock
from covey.testing.randomness import SeededRandomness


class Service:
    """Fails as told, then answers; counts what reaches it."""

    def __init__(self, *errors: BaseException, takes_s: float = 0.0) -> None:
        self.errors = list(errors)
        self.takes_s = takes_s
        self.calls = 0
        self.at_s: list[float] = []

    async def __call__(self, answer: str = "done") -> str:
        self.calls += 1
        self.at_s.append(now_s())
        if self.takes_s:
            await asyncio.sleep(self.takes_s)
        if self.errors:
            raise self.errors.pop(0)
        return answer


def refused() -> ConnectionRefusedError:
    return ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")


def reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "gone")


def dead(count: int = 1000) -> Service:
    return Service(*(refused() for _ in range(count)))


def target(policy: Policy | None = None, **fields: Any) -> Target:  # noqa: ANN401 -- the fields of a policy
    return Target("service", policy or Policy(**fields), randomness=SeededRandomness(1))


def assert_idle(*targets: Target) -> None:
    for one in targets:
        health = one.health()
        assert (health.in_flight, health.waiting) == (0, 0), health


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


# ---- results and retries


@pytest.mark.requirement("resilience.call.result")
@virtual
async def test_a_call_brings_its_result_with_and_without_waiting() -> None:
    api, quick, slow = target(), Service(), Service(takes_s=0.5)
    for _ in range(3):
        assert await api.call(quick, "a") == "a"
        assert await api.call(slow, answer="b") == "b"
    assert (quick.calls, slow.calls) == (3, 3)
    assert_idle(api)


@pytest.mark.requirement("resilience.call.result")
@virtual
async def test_any_awaitable_will_do() -> None:
    api = target()

    def future() -> asyncio.Future[str]:
        made: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        made.get_loop().call_later(1.0, made.set_result, "later")
        return made

    assert [await api.call(future) for _ in range(2)] == ["later", "later"]
    assert_idle(api)


@pytest.mark.requirement("resilience.call.result")
@virtual
async def test_what_a_suspended_function_catches_it_goes_on_from() -> None:
    async def stubborn() -> str:
        for _ in range(2):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                await asyncio.sleep(1)
        return "done"

    api = target(attempt_timeout_s=None, timeout_s=None)
    await api.call(Service())
    task = asyncio.create_task(api.call(stubborn))
    await settled()
    task.cancel()
    await asyncio.sleep(5)
    task.cancel()
    assert await task == "done"
    assert_idle(api)


@pytest.mark.requirement("resilience.retry.not-executed")
@virtual
async def test_what_never_ran_is_tried_again_up_to_three_times() -> None:
    api, service = target(), Service(refused(), refused())
    assert await api.call(service) == "done"
    assert service.calls == 3
    service = dead()
    with pytest.raises(ConnectionRefusedError):
        await api.call(service)
    assert service.calls == 3
    assert_idle(api)


@pytest.mark.requirement("resilience.retry.never-twice")
@pytest.mark.parametrize("warm", [False, True])
def test_what_may_have_run_is_not_tried_again_and_the_error_says_so(warm: bool) -> None:  # noqa: FBT001
    @virtual
    async def test() -> None:
        api, service = target(), Service(reset())
        if warm:
            await api.call(Service())
        with pytest.raises(ConnectionResetError) as caught:
            await api.call(service)
        assert service.calls == 1
        assert caught.value.maybe_executed is True  # type: ignore[attr-defined]
        assert "may have run" in caught.value.__notes__[0]
        assert_idle(api)

    test()


@pytest.mark.requirement("resilience.retry.never-twice")
@virtual
async def test_a_key_or_idempotence_lets_what_may_have_run_run_again() -> None:
    keys: list[str | None] = []

    async def service(failures: list[BaseException]) -> str:
        keys.append(current_scope().key)
        if failures:
            raise failures.pop()
        return "done"

    api = target()
    assert await api.options(idempotent=True).call(service, [reset(), reset()]) == "done"
    assert await api.options(key="brief-7").call(service, [reset()]) == "done"
    assert keys == [None, None, None, "brief-7", "brief-7"]
    assert current_scope().key is None


@pytest.mark.requirement("resilience.retry.unknown-is-final")
@virtual
async def test_errors_that_nothing_is_known_about_are_not_tried_again() -> None:
    class OddError(Exception):
        pass

    service = Service(OddError("?"))
    with pytest.raises(OddError) as caught:
        await target().options(idempotent=True).call(service)
    assert service.calls == 1
    assert not hasattr(caught.value, "maybe_executed")


@pytest.mark.requirement("resilience.retry.backoff")
@virtual
async def test_waits_are_jittered_and_grow() -> None:
    service = dead()
    with pytest.raises(ConnectionRefusedError):
        await target(attempts_max=4, backoff=Backoff(first_s=1.0, cap_s=8.0)).call(service)
    waits = [later - earlier for earlier, later in zip(service.at_s, service.at_s[1:], strict=False)]
    assert all(0 <= wait <= ceiling for wait, ceiling in zip(waits, [1.0, 2.0, 4.0], strict=True))
    assert len(set(waits)) == 3


@pytest.mark.requirement("resilience.budget.share")
@virtual
async def test_the_budget_bounds_repeats_to_a_tenth() -> None:
    api = target(breaker=None, limit=None)
    service = dead(10_000)
    for _ in range(500):
        with pytest.raises(ConnectionRefusedError):
            await api.call(service)
    # Ten were saved up; time passed only in backoffs, for which the floor gives one each ten seconds.
    assert service.calls <= 500 * 1.1 + 10 + now_s() / 10 - 100
    assert service.calls >= 500


@pytest.mark.requirement("resilience.nested.one-layer")
@virtual
async def test_three_stacked_policies_make_three_requests_to_a_dead_service() -> None:
    service = dead()
    outer, middle, inner = (Target(name, Policy(breaker=None)) for name in ("outer", "middle", "inner"))

    async def innermost() -> str:
        return await inner.call(service)

    async def between() -> str:
        return await middle.call(innermost)

    with pytest.raises(ConnectionRefusedError):
        await outer.call(between)
    assert service.calls == 3
    assert_idle(outer, middle, inner)


@pytest.mark.requirement("resilience.nested.one-layer")
@virtual
async def test_a_policy_inside_one_that_does_not_repeat_repeats_itself() -> None:
    service = dead()
    outer, inner = target(attempts_max=1), target()
    with pytest.raises(ConnectionRefusedError):
        await outer.call(lambda: inner.call(service))
    assert service.calls == 3


# ---- deadlines


@pytest.mark.requirement("resilience.timeout.attempt")
@pytest.mark.parametrize("warm", [False, True])
def test_an_attempt_that_takes_too_long_is_cut(warm: bool) -> None:  # noqa: FBT001
    @virtual
    async def test() -> None:
        api = target(attempt_timeout_s=2.0)
        if warm:
            await api.call(Service())
        began_s = now_s()
        with pytest.raises(TimedOutError) as caught:
            await api.call(forever)
        assert now_s() - began_s == pytest.approx(2.0, abs=0.01)
        assert caught.value.maybe_executed
        assert isinstance(caught.value, TimeoutError)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        assert_idle(api)

    test()


@pytest.mark.requirement("resilience.timeout.attempt")
@virtual
async def test_an_idempotent_attempt_that_was_cut_is_tried_again() -> None:
    service = Service(takes_s=0.0)

    async def slow_once() -> str:
        if service.calls == 0:
            service.calls += 1
            await forever()
        return await service()

    assert await target(attempt_timeout_s=1.0).options(idempotent=True).call(slow_once) == "done"
    assert service.calls == 2


@pytest.mark.requirement("resilience.timeout.deadline")
@virtual
async def test_the_deadline_holds_over_all_attempts() -> None:
    api = target(timeout_s=5.0, attempt_timeout_s=2.0, attempts_max=10, budget=None)
    began_s = now_s()
    with pytest.raises(TimedOutError):
        await api.options(idempotent=True).call(forever)
    assert now_s() - began_s <= 5.0 + 0.02


@pytest.mark.requirement("resilience.timeout.deadline")
@virtual
async def test_no_attempt_begins_that_the_deadline_leaves_no_time_for() -> None:
    api = target(backoff=Backoff(first_s=5.0, cap_s=5.0), timeout_s=0.5)
    service = dead()
    notes: list[str] = []
    for _ in range(10):
        with pytest.raises((ConnectionRefusedError, Unavailable)) as caught:
            await api.call(service)
        notes += getattr(caught.value, "__notes__", [])
        api.forget()
    assert len([note for note in notes if "not enough time" in note]) > 5
    assert now_s() - service.at_s[0] < 10 * 0.5


@pytest.mark.requirement("resilience.timeout.nested")
@virtual
async def test_of_nested_deadlines_the_smaller_counts() -> None:
    seen: list[float] = []

    async def look() -> None:
        seen.append(remaining_s(now_s=now_s()))

    api = target(timeout_s=20.0, attempt_timeout_s=None)
    with timeout(5.0):
        await api.call(look)
        with timeout(50.0):
            await api.call(look)
        with timeout(1.0):
            await api.call(look)
        with detached():
            await api.call(look)
    assert seen == pytest.approx([5.0, 5.0, 1.0, 20.0])
    assert remaining_s(now_s=now_s()) == float("inf")


@pytest.mark.requirement("resilience.timeout.nested")
@virtual
async def test_a_deadline_that_passed_lets_nothing_out() -> None:
    api, service = target(), Service()
    await api.call(service)
    with timeout(1.0):
        await asyncio.sleep(2.0)
        for _ in range(2):
            with pytest.raises(TimedOutError) as caught:
                await api.call(service)
            assert not caught.value.maybe_executed
    assert service.calls == 1
    assert_idle(api)


@pytest.mark.requirement("resilience.timeout.block")
@virtual
async def test_an_async_timeout_cuts_whatever_the_block_awaits() -> None:
    began_s = now_s()
    with pytest.raises(TimedOutError):
        async with timeout(2.5):
            await forever()
    assert now_s() - began_s == pytest.approx(2.5, abs=0.01)
    async with timeout(2.5):
        await asyncio.sleep(1.0)
    assert await took_s(asyncio.sleep(10)) == pytest.approx(10)


@pytest.mark.requirement("resilience.timeout.nested")
@virtual
async def test_timeouts_that_come_due_in_any_order_each_cut_their_own() -> None:
    async def within(seconds: float) -> float:
        began_s = now_s()
        with pytest.raises(TimedOutError):
            async with timeout(seconds):
                await forever()
        return now_s() - began_s

    limits = [5.0, 1.0, 3.0, 0.2, 4.0, 0.2]
    assert await asyncio.gather(*map(within, limits)) == pytest.approx(limits, abs=0.01)


@pytest.mark.requirement("resilience.timeout.attempt")
async def test_the_time_of_a_real_loop_can_be_given() -> None:
    clock = ManualClock()
    api = target(attempt_timeout_s=2.0)
    with given_time(asyncio.get_running_loop(), clock.monotonic_s):
        task = asyncio.create_task(api.call(forever))
        await settled()
        began_s = clock.monotonic_s()
        clock.advance(1.0)
        with timeout(0.5):
            assert current_scope().deadline_s == pytest.approx(began_s + 1.5)
    task.cancel()
    await asyncio.wait({task})
    assert_idle(api)


@pytest.mark.requirement("resilience.timeout.impatience")
@virtual
async def test_a_caller_without_patience_does_not_open_the_breaker() -> None:
    api = target(breaker=Breaker(calls_min=2), attempts_max=1)
    service = Service(takes_s=1.0)
    for _ in range(10):
        with pytest.raises(TimedOutError), timeout(0.1):
            await api.call(service)
    assert (api.health().state, api.health().limit) == ("closed", 20.0)


# ---- cancellation


async def cancelled_while(work: Awaitable[object], *, until: Callable[[], bool]) -> None:
    task = asyncio.ensure_future(work)
    for _ in range(1000):
        if until():
            break
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def filled(api: Target, count: int) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(api.call(forever)) for _ in range(count)]


@pytest.mark.requirement("resilience.cancel.leaks-nothing")
@virtual
async def test_cancel_during_an_attempt() -> None:
    api = target()
    await cancelled_while(api.call(forever), until=lambda: api.health().in_flight == 1)
    assert_idle(api)
    assert api.health().state == "closed"


@pytest.mark.requirement("resilience.cancel.leaks-nothing")
@virtual
async def test_cancel_during_a_backoff() -> None:
    api, service = target(backoff=Backoff(first_s=5.0, cap_s=5.0)), dead()
    await cancelled_while(api.call(service), until=lambda: service.calls == 1)
    await asyncio.sleep(20)
    assert service.calls == 1
    assert_idle(api)


@pytest.mark.requirement("resilience.cancel.leaks-nothing")
@virtual
async def test_cancel_in_the_queue_and_just_after_a_place_was_given() -> None:
    api = target(limit=Limit(start=1, least=1, most=1))
    [holder] = filled(api, 1)
    await settled()
    await cancelled_while(api.call(Service()), until=lambda: api.health().waiting == 1)
    assert api.health().waiting == 0
    waiter = asyncio.create_task(api.call(Service()))
    await settled()
    holder.cancel()  # which gives the place to the waiter,
    await asyncio.sleep(0)
    waiter.cancel()  # that is cancelled before it can take it
    await asyncio.gather(holder, waiter, return_exceptions=True)
    assert_idle(api)
    assert await api.call(Service()) == "done"


@pytest.mark.requirement("resilience.cancel.leaks-nothing")
@virtual
async def test_cancel_at_the_gate() -> None:
    api = target()
    api.ask_to_wait(10.0)
    service = Service()
    await cancelled_while(api.call(service), until=lambda: now_s() > 1001)
    assert service.calls == 0
    assert_idle(api)


async def opened(api: Target) -> None:
    """Open the breaker and let it rest, so that the next call is a probe."""
    for _ in range(5):
        with pytest.raises(ConnectionRefusedError):
            await api.call(dead())
    assert api.health().state == "open"
    await asyncio.sleep(api.health().retry_after_s + 0.01)


@pytest.mark.requirement("resilience.cancel.leaks-nothing")
@virtual
async def test_cancel_of_a_probe_frees_its_place_for_the_next() -> None:
    api = target(attempts_max=1)
    await opened(api)
    await cancelled_while(api.call(forever), until=lambda: api.health().in_flight == 1)
    assert api.health().state == "half_open"
    assert await api.call(Service()) == "done"
    assert_idle(api)


@pytest.mark.requirement("resilience.cancel.leaks-nothing")
@virtual
async def test_cancel_of_a_probe_that_waits_at_the_gate() -> None:
    api = target(attempts_max=1)
    await opened(api)
    api.ask_to_wait(5.0)
    began_s = now_s()
    await cancelled_while(api.call(Service()), until=lambda: now_s() > began_s + 0.1)
    api.forget()
    assert await api.call(Service()) == "done"
    assert_idle(api)


@pytest.mark.requirement("resilience.cancel.leaks-nothing")
@virtual
async def test_cancel_of_a_hedged_call_stops_both_tries() -> None:
    api = target(hedge=Hedge(after_s=1.0))
    began_s = now_s()
    await cancelled_while(api.options(idempotent=True).call(forever), until=lambda: now_s() > began_s + 2)
    assert_idle(api)


@pytest.mark.requirement("resilience.cancel.leaks-nothing")
@virtual
async def test_cancel_during_a_fault_and_in_a_stream() -> None:
    api = target(faults=Faults(1).at("send", stall=True))
    await cancelled_while(api.call(Service()), until=lambda: api.health().in_flight == 1)
    assert_idle(api)

    async def items() -> AsyncIterator[int]:
        yield 1
        await forever()

    async def read() -> None:
        async for _ in streaming.stream(lambda _: items()):
            pass

    streaming = target()
    await cancelled_while(read(), until=lambda: streaming.health().in_flight == 1)
    await settled()
    assert_idle(streaming)


@pytest.mark.requirement("resilience.cancel.never-counted")
@virtual
async def test_cancellations_are_never_counted() -> None:
    api = target(breaker=Breaker(calls_min=1, refusals_max=1))
    for _ in range(20):
        await cancelled_while(api.call(forever), until=lambda: api.health().in_flight == 1)
    health = api.health()
    assert (health.state, health.limit, health.repeats_left) == ("closed", 20.0, 10.0)


@pytest.mark.requirement("resilience.cancel.never-swallowed")
@virtual
async def test_a_cancel_at_the_moment_of_the_timeout_stays_a_cancel() -> None:
    api = target(attempt_timeout_s=1.0)
    task = asyncio.create_task(api.call(forever))
    await settled()
    # Its timer is older, so it fires first; both are in one turn of the loop, before the task runs again.
    asyncio.get_running_loop().call_later(1.0, task.cancel)
    await asyncio.wait({task})
    assert task.cancelled()
    assert_idle(api)


# ---- the breaker


@pytest.mark.requirement("resilience.breaker.one-probe")
@virtual
async def test_half_open_lets_exactly_one_of_a_thousand_through() -> None:
    api = target(attempts_max=1)
    await opened(api)
    service = Service(takes_s=0.5)
    answers = await asyncio.gather(*(api.call(service) for _ in range(1000)), return_exceptions=True)
    assert service.calls == 1
    assert answers.count("done") == 1
    assert sum(isinstance(answer, Unavailable) and answer.reason == "circuit_open" for answer in answers) == 999
    assert_idle(api)


@pytest.mark.requirement("resilience.breaker.closes")
@virtual
async def test_three_good_probes_close_it_and_calls_come_back_gradually() -> None:
    api = target(attempts_max=1)
    await opened(api)
    for _ in range(3):
        assert api.health().state == "half_open" or api.health().retry_after_s == 0
        await api.call(Service())
    assert api.health().state == "closed"
    assert api.health().limit == 3  # two, and one for the probe that closed it
    for _ in range(6):
        await api.call(Service(takes_s=0.1))
    assert api.health().limit == 9


@pytest.mark.requirement("resilience.breaker.fails-fast")
@virtual
async def test_an_open_breaker_fails_at_once_and_says_when_to_come_back() -> None:
    api = target(attempts_max=1)
    for _ in range(5):
        with pytest.raises(ConnectionRefusedError):
            await api.call(dead())
    service = Service()
    began_s = now_s()
    with pytest.raises(Unavailable) as caught:
        await api.call(service)
    assert (service.calls, now_s()) == (0, began_s)
    assert caught.value.reason == "circuit_open"
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 1.5


@pytest.mark.requirement("resilience.breaker.fails-fast")
@virtual
async def test_a_repeat_that_the_breaker_refuses_raises_the_real_error() -> None:
    api, service = target(breaker=Breaker(refusals_max=1)), dead()
    with pytest.raises(ConnectionRefusedError):
        await api.call(service)
    assert service.calls == 1


# ---- hints


@pytest.mark.requirement("resilience.hint.gates-the-target")
@virtual
async def test_what_was_said_to_one_call_holds_back_all() -> None:
    api, first, second = target(), Service(RefusedError("full", retry_after_s=3.0)), Service()
    one = asyncio.create_task(api.call(first))
    await settled()
    began_s = now_s()
    assert await api.call(second) == "done"
    assert 3.0 <= now_s() - began_s <= 3.3
    assert await one == "done"
    assert 3.0 <= first.at_s[1] - first.at_s[0] <= 3.7


@pytest.mark.requirement("resilience.hint.capped")
@pytest.mark.parametrize(("hint_s", "timeout_s"), [(61.0, 1000.0), (20.0, 10.0), (1209600.0, None)])
def test_a_wait_that_is_too_long_is_told_at_once(hint_s: float, timeout_s: float | None) -> None:
    @virtual
    async def test() -> None:
        api = target(timeout_s=timeout_s)
        service = Service(RefusedError("full", retry_after_s=hint_s))
        began_s = now_s()
        with pytest.raises(RefusedError) as caught:
            await api.call(service)
        assert caught.value.retry_after_s == hint_s
        assert (service.calls, now_s()) == (1, began_s)

    test()


@pytest.mark.requirement("resilience.hint.gates-the-target")
@virtual
async def test_who_has_a_place_already_heeds_a_hint_that_came_meanwhile() -> None:
    api = target(limit=Limit(start=1, least=1, most=1))
    first, second = Service(RefusedError("full", retry_after_s=3.0), takes_s=1.0), Service()
    answers = asyncio.gather(api.call(first), api.call(second))
    await answers
    assert second.at_s[0] - first.at_s[0] >= 4.0
    assert_idle(api)


@pytest.mark.requirement("resilience.hint.capped")
@virtual
async def test_a_hint_holds_for_at_most_what_is_waited_for_and_a_shorter_one_does_not_shorten_it() -> None:
    api = target()
    api.ask_to_wait(1209600.0)
    assert api.health().retry_after_s == pytest.approx(60.0)
    api.ask_to_wait(1.0)
    assert api.health().retry_after_s == pytest.approx(60.0)


@pytest.mark.requirement("resilience.hint.capped")
@virtual
async def test_others_with_too_little_time_are_refused_at_the_gate() -> None:
    api, service = target(), Service()
    api.ask_to_wait(20.0)
    with pytest.raises(Unavailable) as caught, timeout(5.0):
        await api.call(service)
    assert (caught.value.reason, service.calls) == ("asked_to_wait", 0)
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 20.0


@pytest.mark.requirement("resilience.hint.capped")
@virtual
async def test_a_hint_on_a_foreign_error_is_put_on_it() -> None:
    class Response:
        status_code = 429
        headers = {"Retry-After": "90"}  # noqa: RUF012

    class ForeignError(Exception):
        response = Response()

    with pytest.raises(ForeignError) as caught:
        await target().call(Service(ForeignError()))
    assert caught.value.retry_after_s == 90.0  # type: ignore[attr-defined]


# ---- limit


@pytest.mark.requirement("resilience.limit.fifo")
@virtual
async def test_calls_over_the_limit_wait_their_turn_in_order() -> None:
    api = target(limit=Limit(start=2, least=2, most=2))
    order: list[int] = []

    async def work(number: int) -> None:
        order.append(number)
        await asyncio.sleep(1.0)

    assert await took_s(asyncio.gather(*(api.call(work, number) for number in range(8)))) == pytest.approx(4.0)
    assert order == list(range(8))
    assert_idle(api)


@pytest.mark.requirement("resilience.limit.bounded")
@virtual
async def test_a_full_queue_refuses_at_once() -> None:
    api = target(limit=Limit(start=1, least=1, most=1, queue_max=2), attempt_timeout_s=None)
    tasks = filled(api, 3)
    await settled()
    with pytest.raises(Unavailable) as caught:
        await api.call(Service())
    assert caught.value.reason == "queue_full"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert_idle(api)


@pytest.mark.requirement("resilience.limit.bounded")
@virtual
async def test_the_deadline_ends_the_wait_for_a_turn() -> None:
    api = target(limit=Limit(start=1, least=1, most=1), attempt_timeout_s=None)
    [holder] = filled(api, 1)
    await settled()
    began_s = now_s()
    with pytest.raises(TimedOutError) as caught, timeout(2.0):
        await api.call(Service())
    assert now_s() - began_s == pytest.approx(2.0)
    assert not caught.value.maybe_executed
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)
    assert_idle(api)


@pytest.mark.requirement("resilience.limit.bounded")
@virtual
async def test_a_turn_that_would_come_too_late_is_refused_at_once() -> None:
    api = target(limit=Limit(start=1, least=1, most=1))
    for _ in range(12):
        await api.call(Service(takes_s=1.0))
    tasks = [asyncio.create_task(api.call(Service(takes_s=1.0))) for _ in range(6)]
    await settled()
    began_s = now_s()
    with pytest.raises(Unavailable) as caught, timeout(2.0):
        await api.call(Service())
    assert (caught.value.reason, now_s()) == ("too_late", began_s)
    await asyncio.gather(*tasks)


@pytest.mark.requirement("resilience.limit.adapts")
@virtual
async def test_refusals_shrink_the_limit_once_a_burst() -> None:
    api = target(attempts_max=1, breaker=None)

    async def full() -> None:
        await asyncio.sleep(0.01)
        raise RefusedError("full")

    await asyncio.gather(*(api.call(full) for _ in range(20)), return_exceptions=True)
    assert api.health().limit == pytest.approx(18.0)


# ---- hedge, fallback, judge, faults


@pytest.mark.requirement("resilience.hedge.second-try")
@virtual
async def test_a_slow_read_gets_a_second_try_and_the_first_answer_counts() -> None:
    api = target(hedge=Hedge(after_s=1.0))
    started: list[float] = []

    async def read() -> str:
        started.append(now_s())
        await asyncio.sleep(100.0 if len(started) == 1 else 0.5)
        return f"try {len(started)}"

    began_s = now_s()
    assert await api.options(idempotent=True).call(read) == "try 2"
    assert now_s() - began_s == pytest.approx(1.5)
    assert api.health().repeats_left == pytest.approx(9.0)
    assert_idle(api)


@pytest.mark.requirement("resilience.hedge.second-try")
@virtual
async def test_calls_that_may_not_run_twice_are_never_hedged() -> None:
    api, service = target(hedge=Hedge(after_s=1.0)), Service(takes_s=5.0)
    assert await api.call(service) == "done"
    assert service.calls == 1


@pytest.mark.requirement("resilience.hedge.never-harms")
@virtual
async def test_an_empty_budget_or_a_failed_second_try_leaves_the_first_alone() -> None:
    poor = target(hedge=Hedge(after_s=1.0), budget=Budget(burst=0, ratio=0.0, floor_s=None))
    service = Service(takes_s=5.0)
    assert await poor.options(idempotent=True).call(service) == "done"
    assert service.calls == 1
    api = target(hedge=Hedge(after_s=1.0))
    calls: list[int] = []

    async def read() -> str:
        calls.append(1)
        if len(calls) == 2:
            raise refused()
        await asyncio.sleep(5.0)
        return "first"

    assert await api.options(idempotent=True).call(read) == "first"
    assert len(calls) == 2
    assert_idle(api, poor)


@pytest.mark.requirement("resilience.hedge.never-harms")
@virtual
async def test_when_both_tries_fail_the_error_of_the_first_is_raised() -> None:
    api = target(hedge=Hedge(after_s=1.0), attempts_max=1)
    calls: list[int] = []

    async def read() -> str:
        calls.append(1)
        number = len(calls)
        await asyncio.sleep(3.0)
        raise ValueError(f"try {number}")

    with pytest.raises(ValueError, match="try 1"):
        await api.options(idempotent=True).call(read)
    assert len(calls) == 2


@pytest.mark.requirement("resilience.fallback")
@virtual
async def test_a_fallback_answers_for_any_failure_but_a_cancellation() -> None:
    seen: list[Exception] = []

    async def cached(error: Exception) -> str:
        seen.append(error)
        return "cached"

    api = target(fallback=cached, attempts_max=1)
    assert await api.call(Service(reset())) == "cached"
    plain = target(fallback=lambda error: type(error).__name__, attempt_timeout_s=1.0)
    assert await plain.call(Service(takes_s=10)) == "TimedOutError"
    assert [type(error) for error in seen] == [ConnectionResetError]
    await cancelled_while(plain.call(Service(takes_s=10)), until=lambda: plain.health().in_flight == 1)


def judge_status(status: int) -> Outcome | None:
    return shipped().classify_status(status, {})


@pytest.mark.requirement("resilience.judge")
@virtual
async def test_results_that_are_failures_are_tried_again_and_the_last_is_returned() -> None:
    answers = [503, 503, 200]

    async def get() -> int:
        return answers.pop(0)

    api = target(judge=judge_status)
    assert await api.call(get) == 200
    answers[:] = [503] * 5
    assert await api.call(get) == 503
    assert len(answers) == 2
    answers[:] = [404]
    assert await api.call(get) == 404
    answers[:] = [500, 200]
    assert await api.call(get) == 500  # it may have run


@pytest.mark.requirement("resilience.faults.target")
@virtual
async def test_faults_strike_before_or_after_the_call() -> None:
    service = Service()
    before = target(faults=Faults(1).at("send", error=refused, times=2))
    assert await before.call(service) == "done"
    assert service.calls == 1
    after = target(faults=Faults(1).at("receive", error=reset))
    with pytest.raises(ConnectionResetError):
        await after.call(service)
    assert service.calls == 2
    twice = target(faults=Faults(1).at("send", duplicate=True))
    assert await twice.call(service) == "done"
    assert service.calls == 4
    late = target(faults=Faults(1).at("send", delay_s=3.0))
    assert await took_s(late.call(service)) == pytest.approx(3.0)
    lost = target(faults=Faults(1).at("receive", drop=True), attempt_timeout_s=1.0)
    with pytest.raises(TimedOutError):
        await lost.call(service)
    assert service.calls == 6
    assert_idle(before, after, twice, late, lost)


# ---- attempts


@pytest.mark.requirement("resilience.attempts")
@virtual
async def test_attempts_as_a_loop() -> None:
    api, service = target(), Service(refused(), refused())
    numbers, answer = [], ""
    async for attempt in api.attempts():
        async with attempt:
            numbers.append(attempt.number)
            answer = await service()
    assert (answer, numbers) == ("done", [1, 2, 3])
    assert_idle(api)


@pytest.mark.requirement("resilience.attempts")
@virtual
async def test_the_loop_raises_the_last_error_and_can_be_left() -> None:
    api = target()

    async def loop(work: Callable[[], Awaitable[object]]) -> None:
        async for attempt in api.attempts():
            async with attempt:
                await work()

    with pytest.raises(ConnectionResetError):
        await loop(Service(reset()))
    with pytest.raises(TimedOutError):
        await loop(forever)
    async for attempt in api.attempts():
        async with attempt:
            break
    assert_idle(api)


@pytest.mark.requirement("resilience.attempts")
@virtual
async def test_saying_that_nothing_was_sent_allows_another_attempt() -> None:
    numbers = []
    async for attempt in target().attempts():
        async with attempt:
            numbers.append(attempt.number)
            attempt.reached("unsent")
            if attempt.number == 1:
                raise reset()
    assert numbers == [1, 2]


@pytest.mark.requirement("resilience.attempts")
@virtual
async def test_a_loop_that_does_not_enter_its_attempts_is_told() -> None:
    with pytest.raises(LocalProtocolError, match="async with"):
        async for _ in target().attempts():
            pass
    async for attempt in target().attempts():
        async with attempt:
            with pytest.raises(LocalProtocolError):
                await attempt.__aenter__()


# ---- decorators


@pytest.mark.requirement("resilience.decorator")
@virtual
async def test_a_target_decorates_coroutine_functions_and_methods() -> None:
    api, service = target(), Service(refused())

    @api
    async def fetch(answer: str) -> str:
        """Fetch it."""
        return await service(answer)

    class Client:
        @api
        async def fetch(self, answer: str) -> str:
            return await service(f"{answer} by a method")

    assert fetch.__doc__ == "Fetch it."
    assert await fetch("a") == "a"
    assert await Client().fetch("a") == "a by a method"
    assert service.calls == 3


@pytest.mark.requirement("resilience.decorator")
def test_a_target_decorates_plain_functions_and_waits_by_the_given_clock() -> None:
    clock, waits = ManualClock(), list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    api = Target("disk", Policy(), randomness=SeededRandomness(1), clock=clock, sleep=sleep)
    errors: list[BaseException] = [refused(), RefusedError("full", retry_after_s=2.0)]

    @api
    def read(name: str) -> str:
        if errors:
            raise errors.pop(0)
        return name

    assert read("a") == "a"
    assert 2.0 <= sum(waits) <= 2.6
    errors[:] = [reset()]
    with pytest.raises(ConnectionResetError):
        read("a")
    assert api.health().in_flight == 0


@pytest.mark.requirement("resilience.decorator")
async def test_a_plain_function_is_not_repeated_in_the_thread_of_a_loop() -> None:
    calls: list[int] = []

    @target()
    def read() -> None:
        calls.append(1)
        raise refused()

    with pytest.raises(ConnectionRefusedError) as caught:
        read()
    assert len(calls) == 1
    assert "event loop" in caught.value.__notes__[0]


@pytest.mark.requirement("resilience.decorator")
@virtual
async def test_a_plain_function_never_waits_for_its_turn_in_the_thread_of_a_loop() -> None:
    api = target(limit=Limit(start=1, least=1, most=1))
    [holder] = filled(api, 1)
    await settled()
    with pytest.raises(Unavailable) as caught:
        api.call_blocking(lambda: "done")
    assert caught.value.reason == "event_loop"
    assert api.health().waiting == 0
    holder.cancel()
    await asyncio.wait({holder})
    assert api.call_blocking(lambda: "done") == "done"
    assert_idle(api)


@pytest.mark.requirement("resilience.decorator")
def test_threads_share_a_limit_and_leave_no_place_behind() -> None:
    api = target(limit=Limit(start=2, least=2, most=2))
    lock, inside, most = threading.Lock(), [0], [0]
    gate = threading.Barrier(2)

    def work() -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        gate.wait(10)
        with lock:
            inside[0] -= 1

    threads = [threading.Thread(target=api.call_blocking, args=(work,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most[0] == 2
    assert_idle(api)


@pytest.mark.requirement("resilience.decorator")
def test_loops_in_two_threads_share_a_target() -> None:
    api = target(limit=Limit(start=1, least=1, most=1))
    inside, most = [0], [0]

    async def work() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        for _ in range(5):
            await asyncio.sleep(0)
        inside[0] -= 1

    async def many() -> None:
        await target().call(asyncio.sleep, 0)  # after which the time of the loop is known
        await asyncio.gather(*(api.call(work) for _ in range(50)))

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (most[0], inside[0]) == (1, 0)
    assert api._state.is_shared
    assert_idle(api)


@pytest.mark.requirement("resilience.decorator")
def test_a_target_notices_a_second_loop_also_where_nothing_is_in_the_way() -> None:
    api, shared = target(), list[bool]()

    async def one() -> None:
        await target().call(asyncio.sleep, 0)  # after which the time of the loop is known
        await api.call(asyncio.sleep, 0)
        shared.append(api._state.is_shared)

    asyncio.run(one())
    asyncio.run(one())
    assert shared == [False, True]


@pytest.mark.requirement("resilience.decorator")
@pytest.mark.parametrize("policy", [Policy(judge=judge_status, fallback=lambda _: 0)])
def test_judge_fallback_and_faults_work_on_plain_functions(policy: Policy) -> None:
    api = Target("plain", policy, sleep=lambda _: None)
    answers = [503, 200]
    assert api.call_blocking(lambda: answers.pop(0)) == 200
    assert api.call_blocking(lambda: 404) == 404
    assert api.call_blocking(lambda: int("x")) == 0
    faulty = Target("faulty", Policy(faults=Faults(1).at("send", error=refused, times=1)), sleep=lambda _: None)
    assert faulty.call_blocking(lambda: "done") == "done"


@pytest.mark.requirement("resilience.decorator")
def test_what_is_no_function_that_can_be_called_is_refused() -> None:
    def generator() -> Iterator[int]:
        yield 1

    for wrong in (generator, 5):
        with pytest.raises(InvalidInputError):
            target()(wrong)  # type: ignore[type-var]


# ---- streams


def numbers(*, cut_after: int | None = None, last: int = 5) -> Callable[[int | None], AsyncIterator[int]]:
    """Return what opens a stream of numbers up to ``last``, cut once."""
    cuts = [] if cut_after is None else [cut_after]

    async def open_(after: int | None) -> AsyncIterator[int]:
        for number in range((after or 0) + 1, last + 1):
            yield number
            if cuts and number == cuts[0]:
                cuts.pop()
                raise reset()

    return open_


async def collect(stream: AsyncIterator[int], items: list[int]) -> None:
    async for item in stream:
        items.append(item)  # noqa: PERF401 -- what came before a failure counts


@pytest.mark.requirement("resilience.stream.resumes")
@virtual
async def test_a_cut_stream_goes_on_after_its_last_item() -> None:
    api = target()
    items = [item async for item in api.stream(numbers(cut_after=3), cursor_of=lambda item: item)]
    assert items == [1, 2, 3, 4, 5]
    assert_idle(api)


@pytest.mark.requirement("resilience.stream.resumes")
@virtual
async def test_without_a_cursor_a_cut_stream_fails_after_its_first_item() -> None:
    api, items = target(), list[int]()
    with pytest.raises(ConnectionResetError):
        await collect(api.options(idempotent=True).stream(numbers(cut_after=2)), items)
    assert items == [1, 2]
    assert_idle(api)


@pytest.mark.requirement("resilience.stream.terminator")
@virtual
async def test_a_stream_without_its_last_item_was_cut() -> None:
    api, items = target(), list[int]()
    with pytest.raises(StreamCutError):
        await collect(api.stream(numbers(last=3), is_end=lambda item: item == 5), items)
    assert items == [1, 2, 3]
    whole = api.stream(numbers(last=9), is_end=lambda item: item == 5)
    assert [item async for item in whole] == [1, 2, 3, 4, 5]
    assert_idle(api)


@pytest.mark.requirement("resilience.stream.silence")
@virtual
async def test_silence_before_and_between_items_has_its_own_limits() -> None:
    async def items(first_s: float, later_s: float) -> AsyncIterator[int]:
        await asyncio.sleep(first_s)
        yield 1
        await asyncio.sleep(later_s)
        yield 2

    api = target(first_item_s=10.0, idle_s=2.0, timeout_s=5.0, attempts_max=1)

    async def read(first_s: float, later_s: float) -> list[int]:
        seen: list[int] = []
        async for item in api.stream(lambda _: items(first_s, later_s)):
            seen.append(item)
            await asyncio.sleep(30.0)  # a consumer may take all the time it wants
        return seen

    assert await read(9.0, 1.0) == [1, 2]
    for waits in ((11.0, 1.0), (1.0, 3.0)):
        with pytest.raises(TimedOutError):
            await read(*waits)
    assert_idle(api)


@pytest.mark.requirement("resilience.stream.scope")
@virtual
async def test_the_scope_of_a_stream_is_not_that_of_its_consumer() -> None:
    inner: list[bool] = []

    @target()
    async def items() -> AsyncIterator[int]:
        for number in range(3):
            inner.append(current_scope().is_repeated)
            yield number

    async for _ in items():
        assert not current_scope().is_repeated
    assert inner == [True] * 3
    async for _ in items():
        break
    assert not current_scope().is_repeated


@pytest.mark.requirement("resilience.stream.scope")
@virtual
async def test_leaving_a_stream_early_gives_its_place_back_and_counts_nothing() -> None:
    api = target()
    stream = api.stream(numbers())
    async for _ in stream:
        break
    assert api.health().in_flight == 1
    await stream.aclose()
    assert_idle(api)


# ---- events, options, health


@pytest.mark.requirement("resilience.events")
@virtual
async def test_events_tell_what_happens_and_why_not_more() -> None:
    events: list[PolicyEvent] = []
    api = target(on_event=events.append)
    await api.call(Service(refused(), takes_s=0.1))
    assert [event.kind for event in events] == ["attempt", "retry", "attempt"]
    assert [event.verdict for event in events] == ["transient", None, None]
    events.clear()
    with pytest.raises(ConnectionResetError):
        await api.call(Service(reset()))
    assert [(event.kind, event.reason) for event in events][1:] == [("suppressed", "may_have_run")]
    events.clear()
    api = target(on_event=events.append, attempts_max=1)
    await opened(api)
    with pytest.raises(ConnectionRefusedError):
        await api.call(dead())
    with pytest.raises(Unavailable):
        await api.call(Service())
    kinds = [event.kind for event in events]
    assert [kind for kind in kinds if kind in {"open", "half_open", "shed"}][-4:] == [
        "open",
        "half_open",
        "open",
        "shed",
    ]


@pytest.mark.requirement("resilience.events")
@virtual
async def test_a_listener_may_come_and_go() -> None:
    events: list[PolicyEvent] = []
    api = target()
    await api.call(Service())
    end = api.listen(events.append)
    await api.call(Service())
    end()
    await api.call(Service())
    assert [(event.kind, event.target) for event in events] == [("attempt", "service")]


@pytest.mark.requirement("resilience.policy.refused")
def test_options_and_names_that_make_no_sense_are_refused() -> None:
    for key in ("", "x" * 129, "ü", "a\nb"):
        with pytest.raises(InvalidInputError, match="key"):
            target().options(key=key)
    with pytest.raises(InvalidInputError, match="name"):
        Target("")
    with pytest.raises(InvalidInputError, match="policy"):
        Target("x", 5)  # type: ignore[arg-type]
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidInputError, match="timeout"):
            timeout(seconds)


@pytest.mark.requirement("resilience.health")
@virtual
async def test_a_snapshot_of_a_target() -> None:
    api = target()
    assert api.health().state == "closed"
    assert target(breaker=None, limit=None, budget=None).health().state == "off"
    api.ask_to_wait(5.0)
    assert api.health().retry_after_s == pytest.approx(5.0)
    api.forget()
    assert api.health().retry_after_s == 0.0
    assert repr(api) == "<Target 'service'>"
