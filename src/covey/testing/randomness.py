"""Randomness that a seed repeats."""

from __future__ import annotations

import random
import string

_ALPHABET = string.digits + string.ascii_lowercase


class SeededRandomness:
    """A ``Randomness`` for tests and simulations: the same seed, the same numbers. Never for a real hub."""

    def __init__(self, seed: int | str = 0) -> None:
        self._random = random.Random(seed)

    def uniform(self, low: float, high: float) -> float:
        """See ``Randomness``."""
        return self._random.uniform(low, high)

    def token(self, length: int) -> str:
        """See ``Randomness``."""
        return "".join(self._random.choice(_ALPHABET) for _ in range(length))
