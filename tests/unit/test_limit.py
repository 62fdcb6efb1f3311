"""`resilience/limit.py`: places, the queue, and how the limit follows what a target can take."""

from __future__ import annotations

import pytest

from covey.resilience.limit import Limit, LimitState


def run_rounds(limit: LimitState, rounds: int, *, took_s: float, now_s: float = 0.0) -> float:
    """Keep it full for so many rounds of calls; return the time after them."""
    for _ in range(rounds):
        entered = 0
        while limit.enter():
            entered += 1
        now_s += took_s
        for _ in range(entered):
            limit.left(now_s, took_s)
    return now_s


@pytest.mark.requirement("resilience.limit.adapts")
def test_it_grows_while_calls_take_as_long_as_usual_and_shrinks_when_they_take_longer() -> None:
    limit = LimitState(Limit(), now_s=0.0)
    now_s = run_rounds(limit, 100, took_s=0.1)
    grown = limit.limit
    assert grown > 40
    now_s = run_rounds(limit, 30, took_s=0.5, now_s=now_s)
    assert limit.limit < grown / 2
    assert limit.typical_s == pytest.approx(0.5)


@pytest.mark.requirement("resilience.limit.adapts")
def test_it_stays_within_its_bounds() -> None:
    limit = LimitState(Limit(), now_s=0.0)
    now_s = run_rounds(limit, 3000, took_s=0.1)
    assert limit.limit == 200
    for _ in range(200):
        assert limit.enter()
        now_s += 1.0
        limit.refused(now_s)
    assert limit.limit == 2


@pytest.mark.requirement("resilience.limit.adapts")
def test_it_does_not_grow_by_what_was_not_tried() -> None:
    limit = LimitState(Limit(), now_s=0.0)
    for number in range(1000):
        assert limit.enter()
        limit.left(number * 0.1, 0.1)
    assert limit.limit == 20


@pytest.mark.requirement("resilience.limit.adapts")
def test_a_slow_decline_does_not_become_the_usual() -> None:
    limit, now_s = LimitState(Limit(), now_s=0.0), 0.0
    now_s = run_rounds(limit, 100, took_s=0.1)
    for step in range(60):
        now_s = run_rounds(limit, 1, took_s=0.1 + step * 0.01, now_s=now_s)
    assert limit.limit < 20


@pytest.mark.requirement("resilience.limit.adapts")
def test_one_burst_of_refusals_shrinks_it_once() -> None:
    limit = LimitState(Limit(), now_s=0.0)
    for _ in range(20):
        limit.enter()
    assert [limit.refused(0.05) for _ in range(20)] == [True] + [False] * 19
    assert limit.limit == pytest.approx(18.0)
    limit.enter()
    assert limit.refused(0.2)


@pytest.mark.requirement("resilience.limit.paced")
def test_after_a_recovery_it_doubles_with_each_round_up_to_where_it_was() -> None:
    limit = LimitState(Limit(), now_s=0.0)
    limit.recovered()
    rounds = []
    for _ in range(5):
        rounds.append(limit.places)
        run_rounds(limit, 1, took_s=0.01)
    assert rounds == [2, 4, 8, 16, 20]


@pytest.mark.requirement("resilience.limit.fifo")
def test_places_go_to_those_who_waited_longest_and_nobody_overtakes() -> None:
    limit = LimitState(Limit(start=1, least=1, most=1, queue_max=3), now_s=0.0)
    assert limit.enter()
    assert [limit.queue(ticket) for ticket in "abcd"] == [True, True, True, False]
    assert limit.abandon("b")
    assert not limit.abandon("b")
    limit.let_go()
    assert not limit.enter()
    assert limit.hand_over() == ["a"]
    assert limit.hand_over() == []
    limit.let_go()
    assert limit.hand_over() == ["c"]
    assert (limit.waiting, limit.in_flight) == (0, 1)


@pytest.mark.requirement("resilience.limit.bounded")
def test_the_expected_wait_is_what_is_before_one() -> None:
    limit = LimitState(Limit(start=2, least=2), now_s=0.0)
    assert limit.expected_wait_s() == 0.0
    limit.typical_s = 1.0
    for ticket in range(5):
        limit.queue(ticket)
    assert limit.expected_wait_s() == pytest.approx(3.0)
