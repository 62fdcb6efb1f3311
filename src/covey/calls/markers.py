"""What a method's author says of it, for those who call it from far away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

F = TypeVar("F", bound=Callable[..., object])

_IDEMPOTENT: Final = "__covey_idempotent__"


def idempotent(method: F) -> F:
    """Declare that running the method twice does no harm.

    A keyed call of it whose process died is run again, where any other is told that it may have been executed.
    """
    setattr(method, _IDEMPOTENT, True)
    return method


def is_idempotent(method: object) -> bool:
    """Return whether its author declared it ``idempotent``."""
    return getattr(method, _IDEMPOTENT, False) is True
