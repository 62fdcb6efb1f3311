"""How many repeats a target may be given: a share of the calls it was asked for in the first place.

Backoff and jitter spread repeats over time but don't make them fewer; under load they never let an overloaded service
recover. A share does, as long as load times (1 + share) stays below what the service can do: so it is 10 %, not 20.
Hedges, and repeats of what was refused, pay too: a refusal costs the service something as well.

Source: simulations of a service at 80 % load that loses half of its capacity; Finagle's RetryBudget.
"""

from __future__ import annotations

from typing import Final

import msgspec

from covey.resilience.fields import check_between, check_count, check_seconds

# What a withdrawal may miss of a whole repeat: tenths don't add up to one in binary.
_SLACK: Final = 1e-9


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """The rule.

    Args:
        ratio: repeats per first attempt.
        burst: how many repeats may be saved up; there are as many at the start.
        floor_s: one repeat is allowed after this many seconds without one, however little was saved; None for none.

    Raises:
        InvalidInputError: a field makes no sense.
    """

    ratio: float = 0.1
    burst: int = 10
    floor_s: float | None = 10.0

    def __post_init__(self) -> None:
        check_between("Budget.ratio", self.ratio, 0.0, 1.0)
        check_count("Budget.burst", self.burst, least=0)
        check_seconds("Budget.floor_s", self.floor_s, is_optional=True)


class BudgetState:
    """What is left of it, for one target."""

    __slots__ = ("_floor_s", "_ratio", "_spent_at_s", "burst", "tokens")

    def __init__(self, rule: Budget, *, now_s: float) -> None:
        self._ratio = rule.ratio
        self.burst = float(rule.burst)
        self._floor_s = rule.floor_s
        self._spent_at_s = now_s
        self.tokens = self.burst

    def deposit(self) -> None:
        """Count a first attempt."""
        if self.tokens < self.burst:
            self.tokens = min(self.tokens + self._ratio, self.burst)

    def withdraw(self, now_s: float) -> bool:
        """Pay for one repeat; False when there is nothing to pay with."""
        if self.tokens >= 1.0 - _SLACK:
            self.tokens = max(0.0, self.tokens - 1.0)
        elif self._floor_s is None or now_s - self._spent_at_s < self._floor_s:
            return False
        self._spent_at_s = now_s
        return True
