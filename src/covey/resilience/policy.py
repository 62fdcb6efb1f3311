"""What a call does about failure, as one frozen value; a layer that is None is off and costs nothing.

The layers, from the outside in: fallback, deadline, idempotency key, retry, hedge, breaker, rate-hint gate, limit,
attempt timeout, faults, the call. The defaults are those with which a fleet of clients survived, in simulation, a
service that lost half of its capacity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from covey.errors import InvalidInputError
from covey.resilience.backoff import Backoff
from covey.resilience.breaker import Breaker
from covey.resilience.budget import Budget
from covey.resilience.events import Hook
from covey.resilience.faults import Faults
from covey.resilience.fields import check_callable, check_count, check_instance, check_seconds
from covey.resilience.hedge import Hedge
from covey.resilience.limit import Limit
from covey.resilience.outcome import Outcome, Outcomes


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. A policy holds no state, so that one serves many targets.

    Args:
        timeout_s: how long the whole call may take, with all attempts and waits; None: as long as the caller has.
        attempt_timeout_s: how long one attempt may take; None: as long as the call has.
        attempts_max: how many attempts; 1 turns retries off.
        backoff: how long to wait between them.
        budget: how many repeats the target may be given in all; None: no bound, which makes outages worse.
        breaker: when to stop asking.
        limit: how many calls at once.
        hedge: a second try beside a slow first one, for calls that may run twice.
        hint_s_max: the longest ``Retry-After`` that is waited for; a longer one is told to the caller at once.
        first_item_s: how long a stream may take to its first item.
        idle_s: how long a stream may be silent after that.
        fallback: given the error that a call would raise; what it returns, or what awaiting that gives, is the result.
        judge: given each result; returns what it means where it is a failure that raised nothing, else None.
        outcomes: the table that classifies errors; None: the one that comes with covey.
        faults: failures on purpose, for tests.
        on_event: a hook for everything that happens; see ``covey.resilience.events``.

    Raises:
        InvalidInputError: a field makes no sense; the message names it.
    """

    timeout_s: float | None = 30.0
    attempt_timeout_s: float | None = 10.0
    attempts_max: int = 3
    backoff: Backoff = Backoff()
    budget: Budget | None = Budget()
    breaker: Breaker | None = Breaker()
    limit: Limit | None = Limit()
    hedge: Hedge | None = None
    hint_s_max: float = 60.0
    first_item_s: float | None = 60.0
    idle_s: float | None = 30.0
    # A policy serves calls of any type, so what a fallback returns can't be tied to one here.
    fallback: Callable[[Exception], Any] | None = None
    judge: Callable[[Any], Outcome | None] | None = None
    outcomes: Outcomes | None = None
    faults: Faults | None = None
    on_event: Hook | None = None

    def __post_init__(self) -> None:
        for name in ("timeout_s", "attempt_timeout_s", "first_item_s", "idle_s"):
            check_seconds(f"Policy.{name}", getattr(self, name), is_optional=True)
        check_count("Policy.attempts_max", self.attempts_max, least=1)
        check_seconds("Policy.hint_s_max", self.hint_s_max)
        check_instance("Policy.backoff", self.backoff, Backoff, is_optional=False)
        for name, kind in _LAYERS.items():
            check_instance(f"Policy.{name}", getattr(self, name), kind)
        for name in ("fallback", "judge", "on_event"):
            check_callable(f"Policy.{name}", getattr(self, name))
        self._check_faults()

    def _check_faults(self) -> None:
        for rule in self.faults.rules if self.faults is not None else ():
            if rule.point not in {"send", "receive"} or rule.reorder or rule.cut_after_bytes is not None:
                message = (
                    f"Policy.faults has a fault at {rule.point!r} that a call does not have: its points are 'send' and"
                    " 'receive', and only frames can be reordered and only bytes cut"
                )
                raise InvalidInputError(message)


_LAYERS: Final = {
    "budget": Budget,
    "breaker": Breaker,
    "limit": Limit,
    "hedge": Hedge,
    "outcomes": Outcomes,
    "faults": Faults,
}
