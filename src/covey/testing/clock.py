"""Time that a test moves."""

from __future__ import annotations

from datetime import UTC, datetime


class ManualClock:
    """A clock that stands still until it is told how much time passes; see ``ports.clock.Clock``."""

    def __init__(self, *, monotonic_s: float = 1000.0, wall_s: float | None = None) -> None:
        self._monotonic_s = monotonic_s
        self._wall_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp() if wall_s is None else wall_s

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return self._monotonic_s

    def wall_s(self) -> float:
        """See ``Clock``."""
        return self._wall_s

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: ``seconds`` is negative.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        self._monotonic_s += seconds
        self._wall_s += seconds
