"""`resilience/backoff.py`: bounds, growth, and what the other end asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import InvalidInputError
from covey.resilience.backoff import Backoff

failures = st.integers(min_value=1, max_value=10**9)
jitters = st.floats(min_value=0.0, max_value=1.0)


@pytest.mark.requirement("client.backoff.full-jitter")
def test_the_ceiling_doubles_from_the_first_to_the_cap() -> None:
    ceilings = [Backoff().ceiling_s(count) for count in range(1, 9)]
    assert ceilings == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


@pytest.mark.requirement("client.backoff.full-jitter")
@given(failures, jitters)
def test_a_delay_is_anywhere_between_nothing_and_the_ceiling(count: int, jitter: float) -> None:
    backoff = Backoff()
    assert 0.0 <= backoff.delay_s(count, jitter=jitter) <= backoff.ceiling_s(count) <= 5.0
    assert backoff.delay_s(count, jitter=0.0) == 0.0
    assert backoff.delay_s(count, jitter=1.0) == backoff.ceiling_s(count)


@pytest.mark.requirement("client.backoff.never-undercuts-the-server")
@given(failures, jitters, st.floats(min_value=0.0, max_value=3600.0))
def test_what_the_server_asked_for_is_never_undercut_and_still_spread(count: int, jitter: float, floor: float) -> None:
    delay_s = Backoff().delay_s(count, jitter=jitter, floor_s=floor)
    assert floor <= delay_s <= floor + 5.0


@pytest.mark.requirement("client.backoff.full-jitter")
@pytest.mark.parametrize(
    ("first_s", "cap_s"), [(0.0, 5.0), (-1.0, 5.0), (6.0, 5.0), (0.1, float("inf")), (0.1, float("nan"))]
)
def test_a_schedule_that_makes_no_sense_is_refused(first_s: float, cap_s: float) -> None:
    with pytest.raises(InvalidInputError):
        Backoff(first_s=first_s, cap_s=cap_s)
