"""How much of a stream stays readable, and what gives way when it is full."""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec

from covey.errors import InvalidInputError

Overflow = Literal["drop", "latest", "wait"]
OVERFLOWS: Final = ("drop", "latest", "wait")


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream keeps: the newest events within all of these bounds.

    Args:
        events: how many.
        bytes: how many bytes of data, with a little for each event's own fields.
        age_s: for how many seconds; None for ever.
    """

    events: int = 10_000
    bytes: int = 16 << 20
    age_s: float | None = None

    def checked(self) -> Retention:
        """Return self.

        Raises:
            InvalidInputError: a bound is not a positive number.
        """
        for field in ("events", "bytes", "age_s"):
            value: float | None = getattr(self, field)
            if value is not None and not (value > 0 and math.isfinite(value)):
                message = f"retain.{field} must be a positive number, not {value!r}"
                raise InvalidInputError(message)
        return self
