"""A clock that stands still until it is moved."""

from __future__ import annotations


class ManualClock:
    """A ``Clock`` for tests: both readings move by ``advance`` alone.

    Args:
        wall_s: where the wall clock starts, in seconds since 1970.
    """

    def __init__(self, *, wall_s: float = 1_764_000_000.0) -> None:
        self._monotonic_s = 0.0
        self._wall_s = wall_s

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return self._monotonic_s

    def wall_s(self) -> float:
        """See ``Clock``."""
        return self._wall_s

    def advance(self, seconds: float) -> None:
        """Let this much time pass."""
        if seconds < 0:
            message = f"time does not go back, not even by {-seconds} s"
            raise ValueError(message)
        self._monotonic_s += seconds
        self._wall_s += seconds
