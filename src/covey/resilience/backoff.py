"""How long to wait before the next attempt: exponential with full jitter.

Jitter is what keeps clients that failed together from coming back together, so it covers the whole interval and not
a margin of it. Waiting and drawing are the caller's affair.

Source: protocol 4.1, "Reconnect"; Brooker, "Exponential Backoff And Jitter" (2015).
"""

from __future__ import annotations

from typing import Final

import msgspec

from covey.errors import InvalidInputError

# Doubling more often than this changes nothing but the size of the number.
_DOUBLINGS_MAX: Final = 64


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule; it holds no state, so one serves every client.

    Args:
        first_s: the longest wait before the first repeat.
        cap_s: the longest wait before any repeat.

    Raises:
        InvalidInputError: not ``0 < first_s <= cap_s``.
    """

    first_s: float = 0.1
    cap_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.cap_s < float("inf"):
            message = f"a backoff needs 0 < first_s <= cap_s, not {self.first_s} and {self.cap_s}"
            raise InvalidInputError(message)

    def ceiling_s(self, failures: int) -> float:
        """Return the longest wait after this many failures in a row, counted from 1."""
        return min(self.cap_s, self.first_s * 2.0 ** min(max(failures - 1, 0), _DOUBLINGS_MAX))

    def delay_s(self, failures: int, *, jitter: float, floor_s: float = 0.0) -> float:
        """Return how long to wait now.

        Args:
            failures: how many attempts failed in a row, at least 1.
            jitter: a number in [0, 1], drawn anew for each wait.
            floor_s: what the other end asked for (``retry:``, ``Retry-After``). Never undercut: the jitter comes on
                top of it, so that clients who were all told the same time still spread.
        """
        return floor_s + jitter * self.ceiling_s(failures)
