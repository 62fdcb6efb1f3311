"""One call under way: what it holds of its target, until when, and what follows when an attempt fails.

The same object goes through all attempts of a call. It decides and never waits: where a call has to wait for its turn,
``turn()`` yields what for, and the one who carries it out, in a task or in a thread, does the waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Final

from covey.context import FOREVER_S, Scope, scope_variable
from covey.errors import CoveyError, ExpiredError, TimedOutError, UnavailableError
from covey.resilience.breaker import PASS, REFUSE
from covey.resilience.outcome import Outcome, Phase, shipped
from covey.resilience.retry import REASONS, Reason
from covey.resilience.state import TargetState
from covey.resilience.watch import LoopTicket, LoopWatch, ThreadTicket, ThreadWatch, task_and_watch

# Reasons that say more than the error itself does.
_NOTED: Final = frozenset({"may_have_run", "budget", "deadline", "asked_to_wait", "circuit_open", "event_loop"})


class Flight:
    """One call, from its first attempt to its result."""

    __slots__ = (
        "_attempt_timeout_s",
        "_has_place",
        "_is_repeatable",
        "_key",
        "_last",
        "_limit_s",
        "_outer",
        "_probe",
        "_scope",
        "_started_s",
        "_state",
        "_task",
        "_watch",
        "deadline_s",
        "number",
        "pause_s",
        "phase",
    )

    def __init__(  # noqa: PLR0917 -- what a call is told; by position, as this is made for each call
        self,
        state: TargetState,
        task: asyncio.Task[object] | None,
        watch: LoopWatch | ThreadWatch,
        key: str | None,
        is_repeatable: bool,  # noqa: FBT001 -- as above
        attempt_timeout_s: float | None,
        outer: Scope,
        now_s: float,
        deadline_s: float,
    ) -> None:
        self._state = state
        self._task = task
        self._watch = watch
        self._key = key
        self._is_repeatable = is_repeatable
        self._attempt_timeout_s = attempt_timeout_s
        self._outer = outer
        self._started_s = now_s
        self.deadline_s = deadline_s
        self._probe = PASS
        self._has_place = False
        self._last: BaseException | None = None
        self.number = 1
        self.phase: Phase = "unknown"
        budget = state.budget
        if budget is not None and not outer.is_repeated:
            budget.deposit()

    # ---- setting out
    def take_off(self) -> bool:
        """Begin an attempt if nothing stands in its way; False when it has to wait for its ``turn``."""
        state = self._state
        if self.number > 1:
            self._started_s = self._watch.now_s()
        with state.lock:
            if not state.enter_at_once(self._started_s):
                return False
        self._has_place = True
        self._begin()
        return True

    def departed(self, scope: Scope, task: asyncio.Task[object], watch: LoopWatch) -> None:
        """Take over a first attempt that has begun, in ``scope``, when nothing stood in its way."""
        self._scope = scope
        self._limit_s = scope.deadline_s - self._started_s
        self._has_place = True
        state = self._state
        if state.home is not watch:
            state.settle_in(watch)
        if state.is_shared:
            with state.lock:
                state.enter_anyway()
        elif (limit := state.limit) is not None:
            limit.in_flight += 1
        if scope.deadline_s != FOREVER_S:
            watch.write_down(scope, task)

    def turn(self) -> Generator[float | LoopTicket | ThreadTicket, None, None]:
        """Begin an attempt, yielding what to wait for before: so many seconds, or a ticket.

        Raises:
            UnavailableError: it is not let out at all; or the error of the attempt before, when there was one.
            TimedOutError: the deadline passed first.
        """
        try:
            self._pass_breaker()
            yield from self._pass_gate()
            yield from self._take_place()
            # Meanwhile the target may have asked to be left alone, and a place is no reason not to heed that.
            yield from self._pass_gate()
            self._started_s = self._watch.now_s()
        except UnavailableError as refusal:
            self._leave()
            last, self._last = self._last, None
            if last is None:
                raise
            raise last from refusal
        except BaseException:
            self._leave()
            self._last = None
            raise
        self._begin()

    def _begin(self) -> None:
        now_s = self._started_s
        due_s = self.deadline_s
        attempt_timeout_s = self._attempt_timeout_s
        if attempt_timeout_s is not None and now_s + attempt_timeout_s < due_s:
            due_s = now_s + attempt_timeout_s
        if due_s <= now_s:
            self._leave()
            message = f"the deadline of the call to {self._state.name} passed before it was made"
            raise TimedOutError(message, maybe_executed=False)
        self._enter(due_s, now_s)

    def _enter(self, due_s: float, now_s: float) -> None:
        self._limit_s = due_s - now_s
        is_repeated = self._outer.is_repeated or self._state.policy.attempts_max > 1
        self._scope = scope = Scope(due_s, is_repeated, self._key, self.number, self._outer.home)
        scope_variable.set(scope)
        if self._task is not None and due_s != FOREVER_S:
            assert isinstance(self._watch, LoopWatch)
            self._watch.write_down(scope, self._task)

    def _pass_breaker(self) -> None:
        state, now_s = self._state, self._watch.now_s()
        with state.lock:
            probe = state.admit(now_s)
            if probe != REFUSE:
                self._probe = probe
                return
            assert state.breaker is not None
            opens_s = state.breaker.retry_after_s(now_s)
        raise self._shed("circuit_open", f"{state.name} failed too often lately and is not asked now", opens_s, now_s)

    def _pass_gate(self) -> Generator[float, None, None]:
        while True:
            now_s = self._watch.now_s()
            wait_s = self._state.gate_s(now_s)
            if wait_s <= 0:
                return
            if now_s + wait_s >= self.deadline_s:
                message = f"{self._state.name} asked not to be asked for another {wait_s:.3g} s"
                raise self._shed("asked_to_wait", message, wait_s, now_s)
            yield wait_s

    def _take_place(self) -> Generator[LoopTicket | ThreadTicket, None, None]:
        state, limit = self._state, self._state.limit
        if limit is None:
            return
        now_s = self._watch.now_s()
        ticket = self._watch.ticket()
        with state.lock:
            if limit.enter():
                self._has_place = True
                return
            expected_s = limit.expected_wait_s()
            is_too_late = now_s + expected_s + limit.typical_s > self.deadline_s
            is_full = not is_too_late and not limit.queue(ticket)
        if is_full:
            message = f"{len(limit.queued)} calls to {state.name} wait for their turn already"
            raise self._shed("queue_full", message, expected_s or None, now_s)
        if is_too_late:
            message = f"a call to {state.name} would get its turn in about {expected_s:.3g} s, which is too late for it"
            raise self._shed("too_late", message, expected_s, now_s)
        try:
            yield ticket
        finally:
            with state.lock:
                self._has_place = not limit.abandon(ticket)
        if not self._has_place:
            message = f"the deadline of the call to {state.name} passed while it waited for its turn"
            raise TimedOutError(message, maybe_executed=False)
        now_s = self._watch.now_s()
        if now_s + limit.typical_s > self.deadline_s:
            # First come, first served would send each call in the moment in which nobody waits for it any more.
            message = f"a call to {state.name} got its turn too late to bring a result in time"
            raise self._shed("too_late", message, None, now_s)

    def blocked(self) -> UnavailableError:
        """Return what to raise where the call would have to wait and can't."""
        message = f"a call to {self._state.name} has to wait, and in this thread that would block the event loop"
        return self._shed("event_loop", message, None, self._watch.now_s())

    def _shed(self, reason: str, message: str, after_s: float | None, now_s: float) -> UnavailableError:
        self._state.tell("shed", now_s, attempt=self.number, reason=reason, wait_s=after_s)
        hint = "it was not sent, so it may be tried again later"
        return UnavailableError(message, target=self._state.name, reason=reason, retry_after_s=after_s, hint=hint)

    # ---- streams, which are under way only while someone waits for their next item
    def step_in(self, limit_s: float | None) -> None:
        """Begin to wait for an item, in whichever task asks for it."""
        self._task, self._watch = task_and_watch()
        now_s = self._watch.now_s()
        self._enter(self.deadline_s if limit_s is None else min(self.deadline_s, now_s + limit_s), now_s)

    def step_out(self) -> None:
        """The item is there: time and scope are the consumer's own until it asks for the next."""
        self._watch.forget(self._scope, None)
        scope_variable.set(self._outer)

    def opened(self) -> float:
        """Take note of the first item, and return how long it took: whatever comes later, the target is there."""
        now_s = self._watch.now_s()
        if self._probe:
            with self._state.lock:
                self._state.answered(now_s, self._probe)
            self._probe = PASS
        return now_s - self._started_s

    def resumable(self) -> None:
        """Take note that what came is kept: a further attempt goes on from there, and the count begins anew."""
        self.number = 1
        self._is_repeatable = True

    # ---- coming back
    def landed(self, took_s: float | None = None) -> None:
        """End the call: the attempt brought its result. ``took_s``: what counts as its time, where that is not all."""
        watch, state = self._watch, self._state
        watch.forget(self._scope, None)
        scope_variable.set(self._outer)
        self._last = None
        now_s = watch.now_s()
        if took_s is None:
            took_s = now_s - self._started_s
        if state.is_shared:
            with state.lock:
                state.succeeded(now_s, took_s, self._probe)
        else:
            state.succeeded(now_s, took_s, self._probe)
        if state.hooks:
            state.tell("attempt", now_s, attempt=self.number, took_s=took_s)

    def failed(self, error: BaseException, *, can_wait: bool = True) -> BaseException | None:
        """End the attempt; return None when another one follows after ``pause_s``, else what to raise.

        ``can_wait`` is False where waiting for another one would hold up others.
        """
        scope_variable.set(self._outer)
        if self._watch.forget(self._scope, error):
            error = self._timed_out()
        if not isinstance(error, Exception):
            # The caller wants it no more: that says nothing about the target, and is nobody's to swallow.
            self._leave()
            self._last = None
            return error
        now_s = self._watch.now_s()
        outcome = self._classify(error)
        self._settle(error, outcome, now_s)
        return self._next(error, outcome, now_s, can_wait=can_wait)

    def _classify(self, error: Exception) -> Outcome:
        if isinstance(error, JudgedError):
            return error.outcome
        table = self._state.policy.outcomes or shipped()
        return table.classify(error, phase=self.phase, wall_s=time.time())

    def _settle(self, error: Exception, outcome: Outcome, now_s: float) -> None:
        state, took_s = self._state, now_s - self._started_s
        # A receiver that says at once that it can't do it in time tells no less than one that says nothing until then.
        is_timeout = isinstance(error, TimeoutError | ExpiredError) or "Timeout" in type(error).__name__
        is_impatient = is_timeout and state.is_impatient(
            self._limit_s, is_attempt_timeout=self._scope.deadline_s < self.deadline_s
        )
        with state.lock:
            state.failed(outcome, now_s, probe=self._probe, is_timeout=is_timeout, is_impatient=is_impatient)
        self._probe, self._has_place = PASS, False
        state.tell(
            "attempt",
            now_s,
            attempt=self.number,
            took_s=took_s,
            verdict=outcome.verdict,
            reason=outcome.reason,
            error=error,
        )

    def _next(self, error: Exception, outcome: Outcome, now_s: float, *, can_wait: bool) -> Exception | None:
        state = self._state
        with state.lock:
            decision = state.decide(
                outcome,
                now_s,
                attempt=self.number,
                deadline_s=self.deadline_s,
                is_repeatable=self._is_repeatable,
                is_nested=self._outer.is_repeated,
                can_wait=can_wait,
            )
        if decision.reason is not None:
            self._give_up(error, outcome, decision.reason)
            return error
        state.tell("retry", now_s, attempt=self.number + 1, wait_s=decision.wait_s, error=error)
        self.number += 1
        self.pause_s = decision.wait_s
        self.phase = "unknown"
        self._last = error
        return None

    def _give_up(self, error: Exception, outcome: Outcome, reason: Reason) -> None:
        """Say on the error what the policy knows and the error does not."""
        self._last = None
        if outcome.verdict != "permanent":
            self._state.tell("suppressed", self._watch.now_s(), attempt=self.number, reason=reason, error=error)
        if outcome.retry_after_s is not None and not hasattr(error, "retry_after_s"):
            _put(error, "retry_after_s", outcome.retry_after_s)
        if reason == "may_have_run" and not hasattr(error, "maybe_executed"):
            _put(error, "maybe_executed", True)  # noqa: FBT003 -- the value of a field
        if reason in _NOTED and not isinstance(error, JudgedError):
            note = f"covey: not tried again: {REASONS[reason]} ({self._state.name}, attempt {self.number})"
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)

    def _timed_out(self) -> TimedOutError:
        what = f"nothing came from {self._state.name} within {self._limit_s:.3g} s"
        if self._scope.deadline_s >= self.deadline_s:
            what += ", and no more time was left"
        return TimedOutError(what, maybe_executed=self.phase != "unsent")

    def _leave(self) -> None:
        """Give back what the attempt holds."""
        state = self._state
        with state.lock:
            state.left(self._probe, has_place=self._has_place)
        self._probe, self._has_place = PASS, False


class JudgedError(CoveyError):
    """A result that the policy's ``judge`` calls a failure, on its way through the policy; never leaves it."""

    def __init__(self, outcome: Outcome, result: object) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome
        self.result = result


def _put(error: BaseException, name: str, value: object) -> None:
    """Set a field on somebody else's error; one that allows none goes without."""
    try:
        setattr(error, name, value)
    except (AttributeError, TypeError):
        return
