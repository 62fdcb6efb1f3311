"""What travels with a call by itself. Here so far: who calls."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_principal: Final[ContextVar[str | None]] = ContextVar("covey.principal", default=None)


def current_principal() -> str | None:
    """Return who the running call is for; None in code that nobody outside asked for."""
    return _principal.get()


@contextmanager
def acting_for(principal: str | None) -> Generator[None]:
    """Run the body, and what it calls and starts, on behalf of ``principal``."""
    token = _principal.set(principal)
    try:
        yield
    finally:
        _principal.reset(token)
