"""What travels with a call by itself. So far: who it acts for.

Pure: context variables only, no clock and no task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_principal: Final[ContextVar[str | None]] = ContextVar("covey_principal", default=None)


def principal() -> str | None:
    """Return who the running call acts for; None outside of any call."""
    return _principal.get()


@contextmanager
def acting_as(name: str | None) -> Iterator[None]:
    """Let what runs inside act for ``name``."""
    token = _principal.set(name)
    try:
        yield
    finally:
        _principal.reset(token)
