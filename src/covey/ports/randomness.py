"""Chance as an argument, so that a run can be repeated from its seed."""

from __future__ import annotations

from typing import Protocol


class Randomness(Protocol):
    """Where numbers that nobody should be able to predict, or a test must, come from."""

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high]."""
        ...

    def token(self, length: int) -> str:
        """Return ``length`` characters of ``[a-z0-9]``; unguessable outside tests."""
        ...
