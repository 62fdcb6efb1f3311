"""The world as it is: the machine's clock and its randomness. Programs get these unless they give others."""

from __future__ import annotations

import random
import secrets
import string
import time

_ALPHABET = string.digits + string.ascii_lowercase


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return time.monotonic()

    def wall_s(self) -> float:
        """See ``Clock``."""
        return time.time()


class SystemRandomness:
    """The operating system's randomness."""

    def uniform(self, low: float, high: float) -> float:
        """See ``Randomness``."""
        return random.uniform(low, high)

    def token(self, length: int) -> str:
        """See ``Randomness``."""
        return "".join(secrets.choice(_ALPHABET) for _ in range(length))
