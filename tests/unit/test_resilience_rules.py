"""`resilience`: budget, breaker, hedge, deadline, retry, policy and the checks of their fields, with given instants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import InvalidInputError
from covey.resilience.backoff import Backoff
from covey.resilience.breaker import PASS, REFUSE, TRANSITIONS, Breaker, BreakerState, Input, State
from covey.resilience.budget import Budget, BudgetState
from covey.resilience.deadline import is_hopeless, passed_on_ms
from covey.resilience.faults import Fault, Faults
from covey.resilience.hedge import Hedge, HedgeState
from covey.resilience.limit import Limit
from covey.resilience.outcome import Outcome, Verdict
from covey.resilience.policy import Policy
from covey.resilience.retry import reason_against, wait_s

# ---- budget


@pytest.mark.requirement("resilience.budget.share")
def test_a_repeat_costs_ten_first_attempts() -> None:
    budget = BudgetState(Budget(burst=1, floor_s=None), now_s=0.0)
    assert budget.withdraw(0.0)
    for _ in range(9):
        budget.deposit()
        assert not budget.withdraw(0.0)
    budget.deposit()
    assert budget.withdraw(0.0)


@pytest.mark.requirement("resilience.budget.floor")
def test_one_repeat_is_allowed_after_ten_seconds_without_one() -> None:
    budget = BudgetState(Budget(burst=0, ratio=0.0), now_s=0.0)
    assert [budget.withdraw(now_s) for now_s in (9.9, 10.0, 19.9, 20.0)] == [False, True, False, True]


# ---- the breaker


def tripped(rule: Breaker | None = None, *, jitter: float = 0.5) -> BreakerState:
    breaker = BreakerState(rule or Breaker(), now_s=0.0)
    for _ in range(5):
        breaker.failed(0.0, jitter=jitter, is_refusal=True)
    assert breaker.state is State.OPEN
    return breaker


def times_open(rule: Breaker) -> list[float]:
    """Return how long it is open each time, when no probe succeeds."""
    breaker, now_s, opens = tripped(rule), 0.0, list[float]()
    for _ in range(7):
        opens.append(breaker.retry_after_s(now_s))
        now_s += opens[-1]
        probe = breaker.admit(now_s)
        assert breaker.failed(now_s, jitter=0.5, probe=probe) is State.OPEN
    return opens


@pytest.mark.requirement("resilience.breaker.table")
def test_every_move_is_in_the_table_and_every_state_can_be_left() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert {why for _, why in TRANSITIONS} == set(Input)
    for state, why in itertools.product(State, Input):
        breaker = BreakerState(Breaker(), now_s=0.0)
        breaker.state = state
        if (state, why) in TRANSITIONS:
            assert breaker._move(why) is TRANSITIONS[state, why]
        else:
            with pytest.raises(KeyError):
                breaker._move(why)


@pytest.mark.requirement("resilience.breaker.opens")
def test_it_opens_at_four_fifths_of_twenty_calls_within_ten_seconds() -> None:
    breaker = BreakerState(Breaker(), now_s=0.0)
    for second in range(4):
        breaker.succeeded(float(second))
    moves = [breaker.failed(4.0, jitter=0.5) for _ in range(16)]
    assert moves == [None] * 15 + [State.OPEN]


@pytest.mark.requirement("resilience.breaker.opens")
def test_failures_that_left_the_window_do_not_count() -> None:
    breaker = BreakerState(Breaker(), now_s=0.0)
    for _ in range(19):
        breaker.failed(0.5, jitter=0.5)
    assert breaker.failed(10.5, jitter=0.5) is None
    for _ in range(18):
        breaker.failed(11.0, jitter=0.5)
    assert breaker.failed(11.0, jitter=0.5) is State.OPEN


@pytest.mark.requirement("resilience.breaker.opens")
def test_a_brown_out_does_not_open_it() -> None:
    breaker = BreakerState(Breaker(), now_s=0.0)
    for number in range(1000):
        breaker.failed(number / 10, jitter=0.5)
        breaker.succeeded(number / 10)
    assert breaker.state is State.CLOSED


@pytest.mark.requirement("resilience.breaker.opens")
def test_five_refusals_in_a_row_open_it_and_an_answer_begins_the_count_anew() -> None:
    breaker = BreakerState(Breaker(), now_s=0.0)
    for _ in range(4):
        breaker.failed(0.0, jitter=0.5, is_refusal=True)
    breaker.succeeded(0.0)
    for _ in range(4):
        assert breaker.failed(0.0, jitter=0.5, is_refusal=True) is None
    assert breaker.failed(0.0, jitter=0.5, is_refusal=True) is State.OPEN


@pytest.mark.requirement("resilience.breaker.opens")
def test_twenty_failures_in_a_row_open_it_however_much_went_well_before() -> None:
    breaker = BreakerState(Breaker(), now_s=0.0)
    for _ in range(500):
        breaker.succeeded(0.0)
    moves = [breaker.failed(0.0, jitter=0.5) for _ in range(19)]
    breaker.succeeded(0.0)
    moves += [breaker.failed(0.0, jitter=0.5) for _ in range(19)]
    assert moves == [None] * 38
    assert breaker.failed(0.0, jitter=0.5) is State.OPEN


@pytest.mark.requirement("resilience.breaker.backs-off")
def test_it_stays_open_twice_as_long_each_time_up_to_a_bound_with_jitter() -> None:
    assert times_open(Breaker(open_s_max=30.0)) == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    assert times_open(Breaker(open_s=3.0)) == pytest.approx([3, 6, 6, 6, 6, 6, 6])
    assert tripped(jitter=0.0).retry_after_s(0.0) == pytest.approx(0.5)
    assert tripped(jitter=1.0).retry_after_s(0.0) == pytest.approx(1.5)


@pytest.mark.requirement("resilience.breaker.one-probe")
def test_one_probe_at_a_time_and_three_good_ones_close_it() -> None:
    breaker = tripped()
    assert breaker.admit(0.9) == REFUSE
    for _ in range(3):
        probe = breaker.admit(1.0)
        assert probe > PASS
        assert breaker.admit(1.0) == REFUSE
        breaker.succeeded(1.0, probe)
    assert breaker.state is State.CLOSED
    assert breaker.admit(1.0) == PASS


@pytest.mark.requirement("resilience.breaker.one-probe")
def test_a_probe_that_hangs_or_was_cancelled_makes_room_for_the_next() -> None:
    breaker = tripped()
    hanging = breaker.admit(1.0)
    assert breaker.admit(10.9) == REFUSE
    assert breaker.retry_after_s(10.9) == pytest.approx(0.1)
    following = breaker.admit(11.0)
    assert following > hanging
    breaker.succeeded(11.0, hanging)
    breaker.withdrawn(hanging)
    assert breaker.admit(11.0) == REFUSE
    breaker.withdrawn(following)
    assert breaker.admit(11.0) > following


@pytest.mark.requirement("resilience.breaker.one-probe")
def test_calls_that_left_before_it_opened_say_nothing() -> None:
    breaker = tripped()
    assert breaker.succeeded(0.5) is None
    assert breaker.failed(0.5, jitter=0.5) is None
    probe = breaker.admit(1.0)
    breaker.failed(1.0, jitter=0.5)
    assert breaker.state is State.HALF_OPEN
    breaker.succeeded(1.0, probe)


# ---- hedge and deadline


@pytest.mark.requirement("resilience.hedge.second-try")
def test_the_first_try_has_as_long_as_nearly_all_calls_took() -> None:
    hedge = HedgeState(Hedge())
    assert hedge.delay_s() is None
    for number in range(100):
        hedge.succeeded(number / 100)
    assert hedge.delay_s() == pytest.approx(0.95)
    assert HedgeState(Hedge(after_s=0.3)).delay_s() == 0.3


@pytest.mark.requirement("resilience.deadline.wire")
def test_the_wire_carries_what_remains_less_the_way_back() -> None:
    assert passed_on_ms(10.0) == 9500
    assert passed_on_ms(0.05) == 45
    assert passed_on_ms(0.001) == passed_on_ms(-5.0) == 1
    assert passed_on_ms(math.inf) is None


@pytest.mark.requirement("resilience.deadline.hopeless")
def test_work_that_can_not_be_done_in_time_is_hopeless() -> None:
    assert is_hopeless(0.019)
    assert not is_hopeless(0.021)
    assert is_hopeless(0.4, typical_s=0.5)
    assert not is_hopeless(0.6, typical_s=0.5)


# ---- retry


def outcome(verdict: Verdict, **fields: object) -> Outcome:
    known = Outcome(verdict=verdict, executed="no", wait="backoff", counts=True, reason="r")
    return msgspec.structs.replace(known, **fields)


@pytest.mark.requirement("resilience.retry.never-twice")
@given(
    st.sampled_from(["transient", "ambiguous", "throttled", "overloaded", "permanent", "cancelled", "local"]),
    st.sampled_from(["no", "maybe", "yes"]),
    st.sampled_from(["backoff", "hint", "immediate", "reconnect", "none"]),
    st.integers(1, 5),
)
def test_nothing_that_may_have_run_is_repeated_unless_it_may_run_twice(
    verdict: Verdict, executed: str, wait: str, attempt: int
) -> None:
    known = outcome(verdict, executed=executed, wait=wait)
    plain = reason_against(known, attempt=attempt, attempts_max=3, is_repeatable=False, is_nested=False)
    free = reason_against(known, attempt=attempt, attempts_max=3, is_repeatable=True, is_nested=False)
    nested = reason_against(known, attempt=attempt, attempts_max=3, is_repeatable=True, is_nested=True)
    assert plain is not None or executed == "no"
    assert nested is not None
    if verdict in {"permanent", "cancelled"} or wait == "none" or attempt >= 3:
        assert free is not None
    else:
        assert free is None


@pytest.mark.requirement("resilience.retry.backoff")
def test_how_long_to_wait() -> None:
    backoff = Backoff(first_s=1.0, cap_s=4.0)
    assert wait_s(outcome("transient"), backoff, attempt=2, jitter=1.0) == 2.0
    assert wait_s(outcome("transient", wait="immediate"), backoff, attempt=1, jitter=1.0) == 0.0
    assert wait_s(outcome("transient", wait="immediate"), backoff, attempt=2, jitter=1.0) == 2.0
    # The gate makes it wait for what was asked for; this is what keeps those apart who were told the same.
    assert wait_s(outcome("throttled", retry_after_s=10.0), backoff, attempt=1, jitter=1.0) == pytest.approx(1.0)


# ---- nonsense


NONSENSE: list[tuple[type, str, list[object]]] = [
    (Policy, "timeout_s", [0, -1.0, math.nan, math.inf, "5", True]),
    (Policy, "attempt_timeout_s", [0, -1.0, math.nan]),
    (Policy, "attempts_max", [0, -1, 1.5, True, None]),
    (Policy, "hint_s_max", [0, math.inf, None]),
    (Policy, "first_item_s", [0]),
    (Policy, "idle_s", [-1]),
    (Policy, "backoff", [None, 1.0]),
    (Policy, "budget", [0.1, Limit()]),
    (Policy, "breaker", [5]),
    (Policy, "limit", [20]),
    (Policy, "hedge", [True]),
    (Policy, "fallback", [5]),
    (Policy, "judge", ["x"]),
    (Policy, "on_event", [[]]),
    (Policy, "faults", [1, Faults(1).at("send", reorder=True), Faults(1).at("frame", drop=True)]),
    (Budget, "ratio", [-0.1, 1.1, math.nan]),
    (Budget, "burst", [-1, 0.5]),
    (Budget, "floor_s", [0]),
    (Breaker, "failure_rate", [0, 1.1, math.nan]),
    (Breaker, "calls_min", [0]),
    (Breaker, "window_s", [0]),
    (Breaker, "refusals_max", [0]),
    (Breaker, "open_s", [math.inf, -1]),
    (Breaker, "open_s_max", [0.5, -1]),
    (Breaker, "probes", [0]),
    (Breaker, "probe_s", [0]),
    (Limit, "start", [0, 201]),
    (Limit, "least", [0, 21]),
    (Limit, "most", [10]),
    (Limit, "tolerance", [0.9]),
    (Limit, "headroom", [-1]),
    (Limit, "queue_max", [-1]),
    (Hedge, "quantile", [0.1, 1.0]),
    (Hedge, "after_s", [0]),
    (Backoff, "first_s", [0, 6.0, math.nan]),
    (Backoff, "cap_s", [0.05, math.inf]),
]


@pytest.mark.requirement("resilience.policy.refused")
@pytest.mark.parametrize(
    ("rule", "field", "values"), NONSENSE, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_nonsense_is_refused_by_the_name_of_its_field(rule: type, field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(InvalidInputError, match=field):
            rule(**{field: value})


@pytest.mark.requirement("resilience.policy.refused")
def test_a_fault_that_does_nothing_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="does nothing"):
        Fault(point="send")
    faulty: Callable[..., Fault] = Fault
    for field, value in {"p": 1.5, "delay_s": -1, "cut_after_bytes": -1, "times": 0}.items():
        with pytest.raises(InvalidInputError, match=field):
            faulty(point="send", drop=True, **{field: value})


@pytest.mark.requirement("resilience.policy.value")
def test_policies_are_values() -> None:
    assert Policy() == Policy()
    assert Policy(attempts_max=5) != Policy()
    with pytest.raises(AttributeError):
        Policy().attempts_max = 5  # type: ignore[misc]
