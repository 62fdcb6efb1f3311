"""Time as an argument: the real clock in ``assembly``, a given one in tests and simulations."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Two readings, never mixed: one to measure with, one to show to people."""

    def monotonic_s(self) -> float:
        """Return seconds that never go back; only differences mean something."""
        ...

    def wall_s(self) -> float:
        """Return seconds since 1970, as people read time. May jump; decide nothing by it."""
        ...
