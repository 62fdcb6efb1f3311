"""Cursors: where a reader stands in a stream, and how that is written in ``Last-Event-ID``.

Source: protocol 1, "Events and cursors".
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from covey.errors import InvalidInputError

# The sequence number has at most 19 digits, as many as fit a signed 64-bit integer; that of a real event always does.
_CURSOR: Final = re.compile(r"([A-Za-z0-9]{1,16})\.([0-9]{1,19})", re.ASCII)
_SHOWN_MAX: Final = 80


class Cursor(NamedTuple):
    """The last event a reader has: ``epoch`` names the run of numbers, ``seq`` the event in it."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"


def parse_cursor(text: str) -> Cursor:
    """Return the cursor that ``text`` is.

    Raises:
        InvalidInputError: it is not one. A well-formed cursor of another epoch is fine here: the stream answers it
            with a reset.
    """
    match = _CURSOR.fullmatch(text)
    if match is None:
        shown = text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…"
        message = f"{shown!r} is not a cursor"
        raise InvalidInputError(
            message, hint="send the id of the last event you have, such as 'k3f9.42', or none at all"
        )
    return Cursor(match[1], int(match[2]))
