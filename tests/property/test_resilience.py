"""The state machines of `resilience` under any sequence of events: what must never happen does not."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from covey.resilience.breaker import PASS, REFUSE, Breaker, BreakerState, State
from covey.resilience.budget import Budget, BudgetState
from covey.resilience.limit import Limit, LimitState

passing = st.floats(0.0, 15.0, allow_nan=False)
jitters = st.floats(0.0, 1.0)


class BudgetMachine(RuleBasedStateMachine):
    """Never more repeats than were saved, a tenth of first attempts, and one each ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.budget = BudgetState(Budget(), now_s=0.0)
        self.firsts = 0
        self.repeats = 0

    @rule(count=st.integers(1, 30))
    def ask(self, count: int) -> None:
        for _ in range(count):
            self.budget.deposit()
        self.firsts += count

    @rule(count=st.integers(1, 30))
    def repeat(self, count: int) -> None:
        self.repeats += sum(self.budget.withdraw(self.now_s) for _ in range(count))

    @rule(seconds=passing)
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def is_bounded(self) -> None:
        assert 0.0 <= self.budget.tokens <= 10.0
        assert self.repeats <= 10 + self.firsts * 0.1 + self.now_s / 10.0 + 1e-6


class BreakerMachine(RuleBasedStateMachine):
    """At most one probe that counts; refusals only while it is not closed; it can always come back."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.breaker = BreakerState(Breaker(calls_min=3), now_s=0.0)
        self.out: list[tuple[int, float]] = []

    @rule()
    def ask(self) -> None:
        before = self.breaker.state
        admitted = self.breaker.admit(self.now_s)
        if admitted == REFUSE:
            assert before is not State.CLOSED
            assert self.breaker.retry_after_s(self.now_s) > 0
        else:
            assert (admitted == PASS) == (before is State.CLOSED)
            self.out.append((admitted, self.now_s))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), how=st.sampled_from(["ok", "failed", "refused", "cancelled"]), jitter=jitters)
    def end(self, data: st.DataObject, how: str, jitter: float) -> None:
        probe, _ = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before = self.breaker.state
        if how == "ok":
            moved = self.breaker.succeeded(self.now_s, probe)
            assert moved in {None, State.CLOSED}
        elif how == "cancelled":
            self.breaker.withdrawn(probe)
            moved = None
        else:
            moved = self.breaker.failed(self.now_s, jitter=jitter, is_refusal=how == "refused", probe=probe)
            assert moved in {None, State.OPEN}
        assert self.breaker.state is (moved or before)

    @rule(seconds=passing)
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def one_probe_counts(self) -> None:
        young = [probe for probe, at_s in self.out if probe != PASS and self.now_s < at_s + 10.0]
        current = [probe for probe in young if probe == self.breaker._probe]
        assert len(current) <= 1

    def teardown(self) -> None:
        now_s = self.now_s + 100.0
        for _ in range(4):
            probe = self.breaker.admit(now_s)
            assert probe != REFUSE
            self.breaker.succeeded(now_s, probe)
        assert self.breaker.state is State.CLOSED


class LimitMachine(RuleBasedStateMachine):
    """Places are neither lost nor made up; first come, first served; nobody waits while there is room."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.limit = LimitState(Limit(start=3, least=1, most=6, queue_max=4), now_s=0.0)
        self.inside = 0
        self.waiting: list[int] = []
        self.serial = 0

    @rule()
    def come(self) -> None:
        if self.limit.enter():
            assert not self.waiting
            self.inside += 1
            return
        self.serial += 1
        if self.limit.queue(self.serial):
            self.waiting.append(self.serial)
        else:
            assert len(self.waiting) == 4

    @precondition(lambda self: self.inside)
    @rule(how=st.sampled_from(["ok", "slow", "refused", "neutral"]))
    def leave(self, how: str) -> None:
        self.inside -= 1
        if how == "refused":
            self.limit.refused(self.now_s)
        elif how == "neutral":
            self.limit.let_go()
        else:
            self.limit.left(self.now_s, 0.01 if how == "ok" else 1.0)
        self.hand_over()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.limit.abandon(ticket)
        self.hand_over()

    @rule()
    def recover(self) -> None:
        self.limit.recovered()

    @rule(seconds=st.floats(0.0, 0.2))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    def hand_over(self) -> None:
        granted = self.limit.hand_over()
        assert granted == self.waiting[: len(granted)]
        del self.waiting[: len(granted)]
        self.inside += len(granted)

    @invariant()
    def counts_agree(self) -> None:
        assert self.limit.in_flight == self.inside
        assert self.limit.waiting == len(self.waiting)
        assert 1 <= self.limit.places <= self.limit.limit <= 6
        assert not self.waiting or self.inside >= self.limit.places


TestBudget = BudgetMachine.TestCase
TestBreaker = BreakerMachine.TestCase
TestLimit = LimitMachine.TestCase
for _case, _requirement in (
    (TestBudget, pytest.mark.requirement("resilience.budget.share")),
    (TestBreaker, pytest.mark.requirement("resilience.breaker.one-probe")),
    (TestLimit, pytest.mark.requirement("resilience.limit.fifo")),
):
    _case.pytestmark = [_requirement]  # type: ignore[attr-defined]
