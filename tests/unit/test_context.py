"""`context.py`: deadlines and scopes."""

from __future__ import annotations

import math

import pytest

from covey.context import OPEN_SCOPE, Scope, current_scope, detached, remaining_s, scope_variable, until


@pytest.mark.requirement("resilience.timeout.nested")
def test_of_nested_deadlines_the_earlier_one_holds() -> None:
    assert remaining_s(now_s=5.0) == math.inf
    with until(100.0):
        with until(200.0):
            assert remaining_s(now_s=40.0) == 60.0
        with until(50.0):
            assert remaining_s(now_s=60.0) == -10.0
        assert remaining_s(now_s=40.0) == 60.0
    assert current_scope() is OPEN_SCOPE


@pytest.mark.requirement("resilience.timeout.nested")
def test_detached_work_keeps_nothing_of_the_call_that_began_it() -> None:
    scope_variable.set(Scope(10.0, is_repeated=True, key="k", attempt=2))
    try:
        with detached():
            inner = current_scope()
            assert (inner.deadline_s, inner.is_repeated, inner.key, inner.attempt) == (math.inf, False, None, 1)
        assert current_scope().key == "k"
    finally:
        scope_variable.set(OPEN_SCOPE)


@pytest.mark.requirement("resilience.timeout.nested")
def test_a_deadline_leaves_the_rest_of_the_scope_as_it_is() -> None:
    scope_variable.set(Scope(math.inf, is_repeated=True, key="k", attempt=2))
    try:
        with until(10.0):
            assert (current_scope().key, current_scope().is_repeated, current_scope().attempt) == ("k", True, 2)
    finally:
        scope_variable.set(OPEN_SCOPE)
