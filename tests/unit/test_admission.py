from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import InvalidInputError
from covey.resilience.admission import Admission


def served(admission: Admission, duration_s: float, count: int = 100) -> Admission:
    for _ in range(count):
        admission.served(duration_s)
    return admission


@pytest.mark.requirement("admission.bounded-in-time")
def test_the_queue_is_as_long_as_the_time_it_may_take() -> None:
    admission = Admission(queue_s=0.25, workers=20)
    assert admission.queue_max == 16
    assert served(admission, 0.05).queue_max == 100
    assert served(admission, 0.1).queue_max == 50
    assert served(admission, 10.0).queue_max == 16


@pytest.mark.requirement("admission.bounded-in-time")
def test_a_full_queue_says_when_to_come_back() -> None:
    admission = served(Admission(workers=2), 0.01)
    assert admission.refuses(queued=49) is None
    refusal = admission.refuses(queued=50)
    assert refusal is not None
    assert refusal.reason == "full"
    assert refusal.retry_after_s == pytest.approx(0.25)


@pytest.mark.requirement("admission.hopeless")
def test_work_that_would_not_finish_in_time_is_not_taken() -> None:
    admission = served(Admission(), 0.01)
    assert admission.refuses(queued=10, remaining_s=0.2) is None
    refusal = admission.refuses(queued=10, remaining_s=0.11)
    assert refusal is not None
    assert refusal.reason == "hopeless"
    assert admission.refuses(queued=10, remaining_s=None) is None


@pytest.mark.requirement("admission.hopeless")
def test_work_whose_time_ran_out_in_the_queue_is_not_begun() -> None:
    admission = served(Admission(margin_s=0.02), 0.05)
    assert admission.is_hopeless(remaining_s=0.04)
    assert not admission.is_hopeless(remaining_s=0.06)
    assert not admission.is_hopeless(remaining_s=None)
    assert Admission(margin_s=0.02).is_hopeless(remaining_s=0.01)


@pytest.mark.requirement("admission.recovers")
def test_a_receiver_that_was_slow_still_tries_what_nobody_waits_behind() -> None:
    admission = served(Admission(margin_s=0.02), 2.5)
    assert admission.refuses(queued=1, remaining_s=1.0) is not None
    assert admission.is_hopeless(remaining_s=1.0, queued=1)
    assert admission.refuses(queued=0, remaining_s=1.0) is None
    assert not admission.is_hopeless(remaining_s=1.0, queued=0)
    assert admission.refuses(queued=0, remaining_s=0.01) is not None
    assert admission.is_hopeless(remaining_s=0.01, queued=0)


@pytest.mark.requirement("admission.bounded-in-time")
@given(st.lists(st.floats(min_value=0, max_value=1e4)), st.integers(0, 10**6), st.floats(min_value=0, max_value=1e4))
def test_whatever_was_served_the_answer_is_bounded_and_monotonic(
    durations: list[float], queued: int, remaining_s: float
) -> None:
    admission = Admission(workers=3)
    for duration_s in durations:
        admission.served(duration_s)
    assert admission.queue_max >= admission.queue_min
    refusal = admission.refuses(queued=queued, remaining_s=remaining_s)
    if refusal is None:
        assert queued < admission.queue_max
        assert admission.refuses(queued=queued, remaining_s=remaining_s + 1) is None
    else:
        assert math.isfinite(refusal.retry_after_s)
        assert refusal.retry_after_s > 0


@pytest.mark.requirement("admission.nonsense")
@pytest.mark.parametrize("field", ["queue_s", "queue_min", "margin_s", "workers"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_nonsense_is_refused_by_the_name_of_its_field(field: str, value: float) -> None:
    with pytest.raises(InvalidInputError, match=field):
        Admission(**{field: value})  # type: ignore[arg-type]
