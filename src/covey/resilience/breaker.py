"""A circuit breaker: stop asking a target that is dead, and find out cheaply when it is back.

It opens on a high share of failures in a rolling window, or on failures in a row, and not on a brown-out: a target
that still answers half of the time is better served by a budget and a limit. While it is open, calls fail at once.
Then exactly one call at a time goes through to probe; a few successful probes close it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

import msgspec

from covey.resilience.fields import check_between, check_count, check_order, check_seconds

_BUCKETS: Final = 10
# Doubling more often than this changes nothing but the size of the number.
_DOUBLINGS_MAX: Final = 32


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """The rule.

    Args:
        failure_rate: the share of failed calls in the window at which it opens.
        calls_min: fewer calls than this in the window say nothing about a share; so many failures in a row open it,
            whatever the share: the successes of a better time are no sign of life.
        window_s: how far back it looks.
        refusals_max: so many refused connections in a row are enough.
        open_s: how long it stays open the first time; twice as long each time a probe fails, ± 50 %.
        open_s_max: the most that it is open for, before that jitter; None: twice ``open_s``. So long may calls go on
            failing after the target is back, which costs more than one probe in that time does.
        probes: how many probes in a row must succeed before it closes.
        probe_s: a probe that takes longer is given up, and the next call probes.

    Raises:
        InvalidInputError: a field makes no sense.
    """

    failure_rate: float = 0.8
    calls_min: int = 20
    window_s: float = 10.0
    refusals_max: int = 5
    open_s: float = 1.0
    open_s_max: float | None = None
    probes: int = 3
    probe_s: float = 10.0

    def __post_init__(self) -> None:
        check_between("Breaker.failure_rate", self.failure_rate, 0.0, 1.0, is_low_in=False)
        check_count("Breaker.calls_min", self.calls_min, least=1)
        check_count("Breaker.refusals_max", self.refusals_max, least=1)
        check_count("Breaker.probes", self.probes, least=1)
        for name in ("window_s", "open_s", "probe_s"):
            check_seconds(f"Breaker.{name}", getattr(self, name))
        if self.open_s_max is not None:
            check_seconds("Breaker.open_s_max", self.open_s_max)
            check_order("Breaker.open_s", self.open_s, "Breaker.open_s_max", self.open_s_max)


class State(Enum):
    """Whether calls go through: all, none, or one at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Input(Enum):
    """What moves it."""

    TRIPPED = "too much failed"
    RESTED = "it was open for long enough"
    RELAPSED = "a probe failed"
    RECOVERED = "enough probes succeeded"


TRANSITIONS: Final[Mapping[tuple[State, Input], State]] = {
    (State.CLOSED, Input.TRIPPED): State.OPEN,
    (State.OPEN, Input.RESTED): State.HALF_OPEN,
    (State.HALF_OPEN, Input.RELAPSED): State.OPEN,
    (State.HALF_OPEN, Input.RECOVERED): State.CLOSED,
}

# What `admit` answers beside the number of a probe.
PASS: Final = 0
REFUSE: Final = -1


class BreakerState:
    """Where it stands, for one target. Each method that may move it returns the state it moved to, or None.

    While it is closed and before ``bucket_ends_s``, a success is ``ok`` plus one and ``strikes`` zero: a target counts
    so by itself where it can't afford the call of a method.
    """

    __slots__ = (
        "_bucket_s",
        "_failed",
        "_open_until_s",
        "_openings",
        "_probe",
        "_probe_due_s",
        "_probes_ok",
        "_rule",
        "_serial",
        "_windows",
        "bucket_ends_s",
        "ok",
        "state",
        "strikes",
    )

    def __init__(self, rule: Breaker, *, now_s: float) -> None:
        self._rule = rule
        self._bucket_s = rule.window_s / _BUCKETS
        self.state = State.CLOSED
        self._openings = 0
        self._open_until_s = now_s
        self._serial = 0
        self._probe = 0
        self._probe_due_s = now_s
        self._probes_ok = 0
        self._begin_window(now_s)

    def admit(self, now_s: float) -> int:
        """Return ``PASS``, ``REFUSE``, or the number of the probe that this call is.

        A probe must be answered for by one of the methods below, with its number.
        """
        if self.state is State.CLOSED:
            return PASS
        if self.state is State.OPEN and now_s < self._open_until_s:
            return REFUSE
        if self.state is State.OPEN:
            self._move(Input.RESTED)
            self._probes_ok = 0
        elif self._probe and now_s < self._probe_due_s:
            return REFUSE
        self._serial += 1
        self._probe = self._serial
        self._probe_due_s = now_s + self._rule.probe_s
        return self._probe

    def succeeded(self, now_s: float, probe: int = PASS) -> State | None:
        """Count a call that was answered."""
        if self.state is State.CLOSED:
            self.strikes = 0
            if now_s >= self.bucket_ends_s:
                self._turn(now_s)
            self.ok += 1
            return None
        if not self._is_current(probe):
            # It left before the breaker opened, or was given up: it says nothing about now.
            return None
        self._probe = 0
        self._probes_ok += 1
        if self._probes_ok < self._rule.probes:
            return None
        self._openings = 0
        self._begin_window(now_s)
        return self._move(Input.RECOVERED)

    def failed(self, now_s: float, *, jitter: float, is_refusal: bool = False, probe: int = PASS) -> State | None:
        """Count a failure that is the target's.

        Args:
            now_s: monotonic time.
            jitter: a number in [0, 1], drawn anew.
            is_refusal: nobody listened: fewer of these in a row are enough.
            probe: what ``admit`` gave.
        """
        if self.state is State.CLOSED:
            if now_s >= self.bucket_ends_s:
                self._turn(now_s)
            self._failed += 1
            # One count for both: so that either of the two rules alone is met at their product.
            self.strikes += self._rule.calls_min if is_refusal else self._rule.refusals_max
            return self._open(Input.TRIPPED, now_s, jitter) if self._is_enough() else None
        if not self._is_current(probe):
            return None
        self._probe = 0
        return self._open(Input.RELAPSED, now_s, jitter)

    def withdrawn(self, probe: int) -> None:
        """Free the place of a probe that was cancelled, or that said nothing about the target."""
        if probe and probe == self._probe:
            self._probe = 0

    def retry_after_s(self, now_s: float) -> float:
        """Return when it may be worth asking again; 0 when it is now."""
        until_s = self._open_until_s if self.state is State.OPEN else self._probe_due_s if self._probe else now_s
        return max(0.0, until_s - now_s)

    def _is_current(self, probe: int) -> bool:
        return self.state is State.HALF_OPEN and probe != PASS and probe == self._probe

    def _is_enough(self) -> bool:
        if self.strikes >= self._rule.calls_min * self._rule.refusals_max:
            return True
        failed = self._failed + sum(failed for _, failed in self._windows)
        calls = failed + self.ok + sum(ok for ok, _ in self._windows)
        return calls >= self._rule.calls_min and failed >= self._rule.failure_rate * calls

    def _open(self, why: Input, now_s: float, jitter: float) -> State:
        first_s, most_s = self._rule.open_s, self._rule.open_s_max
        open_s = min(first_s * 2.0 ** min(self._openings, _DOUBLINGS_MAX), most_s or 2.0 * first_s)
        self._openings += 1
        # Clients that saw it die together must not come back together.
        self._open_until_s = now_s + open_s * (0.5 + jitter)
        self._probe = 0
        return self._move(why)

    def _move(self, why: Input) -> State:
        self.state = TRANSITIONS[self.state, why]
        return self.state

    def _begin_window(self, now_s: float) -> None:
        self._windows: list[tuple[int, int]] = []
        self.ok = 0
        self._failed = 0
        self.strikes = 0
        self.bucket_ends_s = now_s + self._bucket_s

    def _turn(self, now_s: float) -> None:
        """Close the bucket that is over and forget those that left the window."""
        passed = int((now_s - self.bucket_ends_s) / self._bucket_s) + 1
        if passed >= _BUCKETS:
            self._windows = []
            self.strikes = 0
        else:
            gone = [(0, 0)] * (passed - 1)
            self._windows = [*self._windows, (self.ok, self._failed), *gone][-(_BUCKETS - 1) :]
        self.ok = 0
        self._failed = 0
        self.bucket_ends_s += passed * self._bucket_s
