"""What is known about one target, shared by all calls to it: budget, breaker, limit, and until when it asked for peace.

Every decision is made here and takes the time as an argument; ``target.py`` waits for what was decided. Its methods
are called under ``lock``, which matters only where threads share a target: the two on the way of each call that goes
well do without until they do (``is_shared``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol, cast

import msgspec

from covey.resilience.breaker import PASS, BreakerState, State
from covey.resilience.budget import BudgetState
from covey.resilience.events import Hook, Kind, PolicyEvent
from covey.resilience.faults import FaultPlan
from covey.resilience.hedge import HedgeState
from covey.resilience.limit import LimitState
from covey.resilience.outcome import Outcome, Verdict
from covey.resilience.policy import Policy
from covey.resilience.retry import Reason, reason_against, wait_s

# A caller that gave a call less than this many times what it usually takes can't blame the target for the rest.
_PATIENCE: Final = 3.0
_NEVER_S: Final = float("-inf")
_ALWAYS_S: Final = float("inf")
# The same, while it is not known what it usually takes.
_PATIENCE_S: Final = 1.0


class Ticket(Protocol):
    """One who waits for a place."""

    def grant(self) -> None:
        """Wake whoever waits: the place is theirs."""
        ...


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a target.

    Args:
        state: of the breaker: ``closed``, ``open``, ``half_open``; ``off`` without one.
        in_flight: how many calls are out; None without a limit.
        limit: how many may be.
        waiting: how many wait for their turn.
        repeats_left: what the budget would pay for now; None without one.
        typical_s: how long a successful call took lately; 0 while nothing is known.
        retry_after_s: how much longer the target asked not to be asked, or the breaker stays open.
    """

    state: str
    in_flight: int | None
    limit: float | None
    waiting: int
    repeats_left: float | None
    typical_s: float
    retry_after_s: float


class Decision(msgspec.Struct, frozen=True):
    """What follows a failed attempt: another one after ``wait_s``, or none, for a reason."""

    wait_s: float
    reason: Reason | None = None


class TargetState:
    """Shared by every call to one target.

    ``lean_after_s`` sums up what a call has to heed besides the limit: after that instant, nothing. It is infinite
    while the breaker is not closed, and always where there is a hook to tell or a layer that few policies have.
    """

    __slots__ = (
        "breaker",
        "budget",
        "gate_until_s",
        "hedge",
        "home",
        "hooks",
        "is_shared",
        "lean_after_s",
        "limit",
        "lock",
        "name",
        "plan",
        "policy",
        "uniform",
    )

    def __init__(
        self, name: str, policy: Policy, *, uniform: Callable[[], float], lock: AbstractContextManager[object]
    ) -> None:
        self.name = name
        self.policy = policy
        self.uniform = uniform
        self.lock = lock
        # Of which loop the calls so far were, and whether others, or threads, make calls too.
        self.home: object = None
        self.is_shared = False
        self.hooks: tuple[Hook, ...] = (policy.on_event,) if policy.on_event else ()
        self.forget()

    def forget(self) -> None:
        """Begin as if nothing had happened yet."""
        policy = self.policy
        # The beginning of time: whatever is learned is learned later.
        self.budget = BudgetState(policy.budget, now_s=0.0) if policy.budget is not None else None
        self.breaker = BreakerState(policy.breaker, now_s=0.0) if policy.breaker is not None else None
        self.limit = LimitState(policy.limit, now_s=0.0) if policy.limit is not None else None
        self.hedge = HedgeState(policy.hedge) if policy.hedge is not None else None
        self.plan = FaultPlan(policy.faults) if policy.faults is not None else None
        self.gate_until_s = _NEVER_S
        self.refresh()

    def settle_in(self, home: object) -> None:
        """Take note of a loop that makes calls; with the second one, they have to keep apart by ``lock``."""
        self.is_shared = self.is_shared or self.home is not None
        self.home = home

    def refresh(self) -> None:
        """Sum up anew, after something changed that a call has to heed."""
        is_open_way = self.breaker is None or self.breaker.state is State.CLOSED
        is_lean = is_open_way and not self.hooks and is_bare(self.policy)
        self.lean_after_s = self.gate_until_s if is_lean else _ALWAYS_S

    @property
    def typical_s(self) -> float:
        """How long a successful call took lately; 0 while nothing is known."""
        return self.limit.typical_s if self.limit is not None else 0.0

    # ---- before an attempt
    def enter_at_once(self, now_s: float) -> bool:
        """Let a call out if nothing at all stands in its way."""
        breaker = self.breaker
        if self.gate_until_s > now_s or (breaker is not None and breaker.state is not State.CLOSED):
            return False
        limit = self.limit
        return limit is None or limit.enter()

    def enter_anyway(self) -> None:
        """Count a call that went out already, when it was seen to be free to."""
        if self.limit is not None:
            self.limit.in_flight += 1

    def admit(self, now_s: float) -> int:
        """Ask the breaker; see ``BreakerState.admit``."""
        if self.breaker is None:
            return PASS
        before = self.breaker.state
        probe = self.breaker.admit(now_s)
        if self.breaker.state is not before:
            self._moved("half_open", now_s)
        return probe

    def gate_s(self, now_s: float) -> float:
        """Return for how much longer the target asked not to be asked; with jitter, 0 when it did not."""
        left_s = self.gate_until_s - now_s
        return left_s * (1.0 + 0.1 * self.uniform()) if left_s > 0 else 0.0

    # ---- after an attempt
    def succeeded(self, now_s: float, took_s: float, probe: int) -> None:
        """Give back what the attempt held, and learn from its success."""
        breaker, limit = self.breaker, self.limit
        if breaker is not None:
            if breaker.state is State.CLOSED and now_s < breaker.bucket_ends_s:
                breaker.ok += 1
                breaker.strikes = 0
            else:
                self.answered(now_s, probe)
        if limit is not None:
            if limit.left(now_s, took_s):
                self.tell("limit", now_s, value=limit.limit)
            if limit.queued:
                self.hand_over()
        if self.hedge is not None:
            self.hedge.succeeded(took_s)

    def answered(self, now_s: float, probe: int) -> None:
        """Tell the breaker of an answer; the limit hears of it when all of it is there."""
        if self.breaker is not None and self.breaker.succeeded(now_s, probe) is State.CLOSED:
            self._moved("close", now_s)
            if self.limit is not None:
                self.limit.recovered()

    def failed(self, outcome: Outcome, now_s: float, *, probe: int, is_timeout: bool, is_impatient: bool) -> None:
        """Give back what the attempt held, and learn from its failure."""
        is_sign = not is_impatient
        if outcome.retry_after_s is not None and outcome.verdict != "permanent":
            self.ask_to_wait(outcome.retry_after_s, now_s)
        if self.breaker is not None:
            self._judge(self.breaker, outcome, now_s, probe=probe, counts=outcome.counts and is_sign)
        limit = self.limit
        if limit is None:
            return
        if is_sign and (is_timeout or outcome.verdict in {"overloaded", "throttled"}):
            if limit.refused(now_s):
                self.tell("limit", now_s, value=limit.limit)
        else:
            limit.let_go()
        self.hand_over()

    def left(self, probe: int, *, has_place: bool) -> None:
        """Give back what a call held that was cancelled, or never went out: it says nothing about the target."""
        if self.breaker is not None and probe:
            self.breaker.withdrawn(probe)
        if self.limit is not None:
            if has_place:
                self.limit.let_go()
            self.hand_over()

    def ask_to_wait(self, after_s: float, now_s: float) -> None:
        """Keep every call to the target back for a while: what was said to one was said to all.

        A wish longer than the policy waits for is told to whoever heard it, and heeded no longer than that: it may be
        a mistake of the other end.
        """
        self.gate_until_s = max(self.gate_until_s, now_s + min(after_s, self.policy.hint_s_max))
        self.refresh()

    def decide(
        self,
        outcome: Outcome,
        now_s: float,
        *,
        attempt: int,
        deadline_s: float,
        is_repeatable: bool,
        is_nested: bool,
        can_wait: bool,
    ) -> Decision:
        """Say whether there is another attempt; it is paid for when there is."""
        policy = self.policy
        reason = reason_against(
            outcome,
            attempt=attempt,
            attempts_max=policy.attempts_max,
            is_repeatable=is_repeatable,
            is_nested=is_nested,
        )
        if reason is not None:
            return Decision(0.0, reason)
        if not can_wait:
            return Decision(0.0, "event_loop")
        hint_s = outcome.retry_after_s or 0.0
        if hint_s > policy.hint_s_max or now_s + hint_s > deadline_s:
            return Decision(0.0, "asked_to_wait")
        pause_s = wait_s(outcome, policy.backoff, attempt=attempt, jitter=self.uniform())
        if now_s + hint_s + pause_s + self.typical_s >= deadline_s:
            return Decision(0.0, "deadline")
        if not self.pay(now_s):
            return Decision(0.0, "budget")
        return Decision(pause_s)

    def pay(self, now_s: float) -> bool:
        """Pay for a repeat from the budget."""
        return self.budget is None or self.budget.withdraw(now_s)

    def is_impatient(self, allowed_s: float, *, is_attempt_timeout: bool) -> bool:
        """Tell whether an attempt that took too long was given too little time to mean anything."""
        if is_attempt_timeout:
            return False
        return allowed_s < (_PATIENCE * self.typical_s or _PATIENCE_S)

    def hand_over(self) -> None:
        """Give free places to those who wait."""
        if self.limit is not None and self.limit.queued:
            for ticket in self.limit.hand_over():
                cast("Ticket", ticket).grant()

    def health(self, now_s: float) -> Health:
        """Return a snapshot."""
        breaker, limit = self.breaker, self.limit
        opens_s = breaker.retry_after_s(now_s) if breaker is not None else 0.0
        return Health(
            state=breaker.state.value if breaker is not None else "off",
            in_flight=limit.in_flight if limit is not None else None,
            limit=limit.limit if limit is not None else None,
            waiting=len(limit.queued) if limit is not None else 0,
            repeats_left=self.budget.tokens if self.budget is not None else None,
            typical_s=self.typical_s,
            retry_after_s=max(opens_s, self.gate_until_s - now_s, 0.0),
        )

    def _moved(self, kind: Kind, now_s: float, *, wait_s: float | None = None) -> None:
        """Take note that the breaker moved."""
        self.refresh()
        self.tell(kind, now_s, wait_s=wait_s)

    def _judge(self, breaker: BreakerState, outcome: Outcome, now_s: float, *, probe: int, counts: bool) -> None:
        if counts:
            is_refusal = outcome.executed == "no" and outcome.verdict == "transient"
            moved = breaker.failed(now_s, jitter=self.uniform(), is_refusal=is_refusal, probe=probe)
            if moved is State.OPEN:
                self._moved("open", now_s, wait_s=breaker.retry_after_s(now_s))
        elif outcome.is_answer:
            self.answered(now_s, probe)
        else:
            breaker.withdrawn(probe)

    def tell(
        self,
        kind: Kind,
        now_s: float,
        *,
        attempt: int | None = None,
        took_s: float | None = None,
        wait_s: float | None = None,
        value: float | None = None,
        reason: str | None = None,
        verdict: Verdict | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Tell those who listen."""
        if not self.hooks:
            return
        event = PolicyEvent(
            kind=kind,
            target=self.name,
            at_s=now_s,
            attempt=attempt,
            took_s=took_s,
            wait_s=wait_s,
            value=value,
            reason=reason,
            verdict=verdict,
            error=error,
        )
        for hook in self.hooks:
            hook(event)


def is_bare(policy: Policy) -> bool:
    """Tell whether a policy has none of the layers that few have, and that wrap the function which is called."""
    return policy.fallback is None and policy.faults is None and policy.judge is None and policy.hedge is None
