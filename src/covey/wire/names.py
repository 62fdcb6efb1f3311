"""Names of teammates and streams. Source: protocol, opening section."""

from __future__ import annotations

import re
from typing import Final

from covey.errors import InvalidInputError

NAME_BYTES_MAX: Final = 128
RESERVED_PARTS: Final = frozenset({"covey", "call", "link"})
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", re.ASCII)
_SHOWN_MAX: Final = 80


def check_name(name: str, *, what: str = "a name") -> str:
    """Return ``name`` when it is well formed.

    Raises:
        InvalidInputError: it is not: dot-separated parts of ``[A-Za-z0-9_-]``, at most 128 bytes in all.
    """
    if len(name) <= NAME_BYTES_MAX and _NAME.fullmatch(name) is not None:
        return name
    shown = name if len(name) <= _SHOWN_MAX else name[:_SHOWN_MAX] + "…"
    message = f"{shown!r} is not {what}"
    raise InvalidInputError(
        message, hint=f"use dot-separated parts of A-Z a-z 0-9 _ -, at most {NAME_BYTES_MAX} characters in all"
    )


def check_own_name(name: str, *, what: str = "a name") -> str:
    """Return ``name`` when it is well formed and not reserved for covey itself.

    Raises:
        InvalidInputError: it is malformed, or its first part is reserved.
    """
    check_name(name, what=what)
    first = name.partition(".")[0]
    if first in RESERVED_PARTS:
        message = f"names that begin with {first!r} are covey's own"
        raise InvalidInputError(message, hint="choose another first part")
    return name
