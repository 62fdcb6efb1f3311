"""A second try beside a slow first one: takes the slow tail off reads, for a few percent more of them.

Off unless asked for, only for calls that may run twice, and paid from the budget: when that is empty, the first try
goes on alone.

Source: Dean and Barroso, "The Tail at Scale" (2013).
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from covey.resilience.fields import check_between, check_seconds

_SAMPLES_MAX: Final = 200
_SAMPLES_MIN: Final = 20


class Hedge(msgspec.Struct, frozen=True, kw_only=True):
    """The rule.

    Args:
        quantile: the second try starts when the first takes longer than this share of calls did lately.
        after_s: how long to wait instead, while too little is known; None: no second try then.

    Raises:
        InvalidInputError: a field makes no sense.
    """

    quantile: float = 0.95
    after_s: float | None = None

    def __post_init__(self) -> None:
        check_between("Hedge.quantile", self.quantile, 0.5, 0.999)
        check_seconds("Hedge.after_s", self.after_s, is_optional=True)


class HedgeState:
    """How long calls took lately, for one target."""

    __slots__ = ("_rule", "_took_s")

    def __init__(self, rule: Hedge) -> None:
        self._rule = rule
        self._took_s: deque[float] = deque(maxlen=_SAMPLES_MAX)

    def succeeded(self, took_s: float) -> None:
        """Learn from a success."""
        self._took_s.append(took_s)

    def delay_s(self) -> float | None:
        """Return how long the first try has for itself; None when there shall be no second."""
        if len(self._took_s) < _SAMPLES_MIN:
            return self._rule.after_s
        ordered = sorted(self._took_s)
        return ordered[min(int(self._rule.quantile * len(ordered)), len(ordered) - 1)]
