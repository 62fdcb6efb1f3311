"""How many calls a target is given at once: adapted to what it can take, with a bounded queue for the rest.

The limit follows the gradient between how long calls usually take and how long they take now, so it shrinks when a
queue builds up at the other end. It learns from successes only: refusals come back fast, and would make it climb.
After a recovery it starts low and doubles with each round of successes, so that those who waited don't all go at once.

Source: TCP Vegas; Netflix concurrency-limits, Gradient2, and its issues 134 (it must not creep up while a target
degrades slowly) and 176 (refusals are not samples).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

import msgspec

from covey.resilience.fields import check_between, check_count, check_order

# A window is over when it is old enough and has enough samples to tell a trend from noise.
_WINDOW_S: Final = 0.1
_SAMPLES_MIN: Final = 10
# How much of the way towards a new value one window goes.
_SMOOTHING: Final = 0.2
_GRADIENT_MIN: Final = 0.5
# What is usual follows better times soon and worse times slowly, or a slow decline would become the usual.
_USUAL_FALLS: Final = 0.2
_USUAL_RISES: Final = 0.01
_SHRINK: Final = 0.9
_SHRINK_EVERY_S: Final = 0.1


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """The rule.

    Args:
        start: how many calls at once before anything is known.
        least: it never shrinks below this.
        most: it never grows above this.
        tolerance: how much longer than usual calls may take before it shrinks.
        headroom: how many calls it grows by in a window when nothing slows down.
        queue_max: how many calls may wait for their turn; more are refused at once.

    Raises:
        InvalidInputError: a field makes no sense.
    """

    start: int = 20
    least: int = 2
    most: int = 200
    tolerance: float = 1.5
    headroom: int = 4
    queue_max: int = 1000

    def __post_init__(self) -> None:
        for name in ("start", "least", "most"):
            check_count(f"Limit.{name}", getattr(self, name), least=1)
        check_order("Limit.least", self.least, "Limit.start", self.start)
        check_order("Limit.start", self.start, "Limit.most", self.most)
        check_between("Limit.tolerance", self.tolerance, 1.0, 10.0)
        check_count("Limit.headroom", self.headroom, least=0)
        check_count("Limit.queue_max", self.queue_max, least=0)


class LimitState:
    """Who is in and who waits, for one target. Waiting itself is the caller's affair: a ticket is any object."""

    __slots__ = (
        "_count",
        "_peak",
        "_rule",
        "_shrunk_at_s",
        "_sum_s",
        "_threshold",
        "_usual_s",
        "_window_ends_s",
        "in_flight",
        "limit",
        "places",
        "queued",
        "typical_s",
    )

    def __init__(self, rule: Limit, *, now_s: float) -> None:
        self._rule = rule
        self.limit = float(rule.start)
        # The limit in whole places, which is what a call is compared with.
        self.places = rule.start
        self.in_flight = 0
        # How long a successful call took lately; 0 while nothing is known.
        self.typical_s = 0.0
        self._usual_s = 0.0
        self._threshold = 0.0
        self._shrunk_at_s = now_s - _SHRINK_EVERY_S
        self.queued: OrderedDict[Hashable, None] = OrderedDict()
        self._sum_s = 0.0
        self._count = 0
        self._peak = 0
        self._window_ends_s = now_s + _WINDOW_S

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self.queued)

    def enter(self) -> bool:
        """Take a place if there is one and nobody waits for it."""
        in_flight = self.in_flight
        if in_flight >= self.places or self.queued:
            return False
        self.in_flight = in_flight = in_flight + 1
        self._peak = max(self._peak, in_flight)
        return True

    def queue(self, ticket: Hashable) -> bool:
        """Wait for a place; False when too many do."""
        if len(self.queued) >= self._rule.queue_max:
            return False
        self.queued[ticket] = None
        return True

    def expected_wait_s(self) -> float:
        """Return how long one who comes now would wait, by what is known; 0 when nothing is."""
        return (len(self.queued) + 1) / self.limit * self.typical_s

    def abandon(self, ticket: Hashable) -> bool:
        """Stop waiting; False when the ticket was given its place already, which then must be left."""
        if ticket not in self.queued:
            return False
        del self.queued[ticket]
        return True

    def hand_over(self) -> list[Hashable]:
        """Give free places to those who waited longest, and return their tickets: they are in."""
        granted: list[Hashable] = []
        while self.queued and self.in_flight < self.places:
            ticket, _ = self.queued.popitem(last=False)
            self.in_flight += 1
            self._peak = max(self._peak, self.in_flight)
            granted.append(ticket)
        return granted

    def left(self, now_s: float, took_s: float) -> bool:
        """Give a place back after a success; whether the limit changed by it."""
        self.in_flight -= 1
        self._sum_s += took_s
        self._count = count = self._count + 1
        if self.limit < self._threshold:
            # Recovering: one more for each success doubles it with each round.
            self._set(min(self.limit + 1.0, self._threshold))
            return True
        if now_s < self._window_ends_s or count < _SAMPLES_MIN:
            return False
        return self._close_window(now_s)

    def let_go(self) -> None:
        """Give a place back when the call says nothing about how much the target can take."""
        self.in_flight -= 1

    def refused(self, now_s: float) -> bool:
        """Give a place back after a refusal or a timeout; whether the limit shrank. One burst shrinks it once."""
        self.in_flight -= 1
        if now_s - self._shrunk_at_s < _SHRINK_EVERY_S:
            return False
        self._shrunk_at_s = now_s
        self._threshold = 0.0
        before = self.limit
        self._set(max(float(self._rule.least), before * _SHRINK))
        return self.limit != before

    def recovered(self) -> None:
        """Start low and climb back: the target is there again, and others come back too."""
        self._threshold = self.limit
        self._set(float(self._rule.least))

    def _close_window(self, now_s: float) -> bool:
        mean_s = self._sum_s / self._count
        self.typical_s = mean_s
        pull = _USUAL_FALLS if mean_s < self._usual_s else _USUAL_RISES
        self._usual_s = self._usual_s + (mean_s - self._usual_s) * pull if self._usual_s else mean_s
        before = self.limit
        # Where fewer calls were made than allowed, quick answers say nothing about more of them.
        if self._peak * 2 >= before:
            self._set(self._towards(before, mean_s))
        self._begin_window(now_s)
        return self.limit != before

    def _towards(self, limit: float, mean_s: float) -> float:
        allowed_s = self._rule.tolerance * self._usual_s
        gradient = 1.0 if mean_s <= allowed_s else max(_GRADIENT_MIN, allowed_s / mean_s)
        wanted = limit * gradient + self._rule.headroom
        return min(max(limit + (wanted - limit) * _SMOOTHING, float(self._rule.least)), float(self._rule.most))

    def _set(self, limit: float) -> None:
        self.limit = limit
        self.places = int(limit)

    def _begin_window(self, now_s: float) -> None:
        self._sum_s = 0.0
        self._count = 0
        self._peak = self.in_flight
        self._window_ends_s = now_s + _WINDOW_S
