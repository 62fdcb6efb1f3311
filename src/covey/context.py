"""What travels with a call by itself: who calls, until when an answer is of use, under which key, and who repeats it.

The time is the caller's to read: everything here is given instants and never asks a clock.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import msgspec

_principal: Final[ContextVar[str | None]] = ContextVar("covey.principal", default=None)

FOREVER_S: Final = float("inf")


class Scope(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What the code that runs now was allowed by whoever called it. Each is itself and equal to no other.

    Args:
        deadline_s: the instant (monotonic) after which nobody waits for the result any more.
        is_repeated: a policy around this code repeats it when it fails, so a policy inside makes one attempt only:
            stacked retries multiply.
        key: the idempotency key of this work, the same for each attempt.
        attempt: which attempt of its policy this is, counted from 1.
        home: the time of the event loop that this runs in, once a policy has asked for it. In here and not in a
            variable of its own, as every variable makes every other one slower to set.
    """

    deadline_s: float = FOREVER_S
    is_repeated: bool = False
    key: str | None = None
    attempt: int = 1
    # Of a type further up, which this must not know.
    home: Any = None


OPEN_SCOPE: Final = Scope()

# Read and set directly by the policy, which does so for each call; others use the functions below.
scope_variable: Final[ContextVar[Scope]] = ContextVar("covey.scope", default=OPEN_SCOPE)


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


def current_scope() -> Scope:
    """Return what holds for the code that runs now; an open one in code that no policy carries."""
    return scope_variable.get()


def remaining_s(*, now_s: float) -> float:
    """Return how long a result is still waited for; infinite without a deadline, negative after it."""
    return scope_variable.get().deadline_s - now_s


@contextmanager
def until(deadline_s: float) -> Generator[None]:
    """Give the calls in the body this deadline, or keep the one around it if that is earlier."""
    outer = scope_variable.get()
    token = scope_variable.set(msgspec.structs.replace(outer, deadline_s=min(deadline_s, outer.deadline_s)))
    try:
        yield
    finally:
        scope_variable.reset(token)


@contextmanager
def detached() -> Generator[None]:
    """Run the body, and the tasks it starts, without the deadline, key and policy around it.

    For work that a call begins and does not wait for: a task inherits the deadline of the call that started it.
    """
    token = scope_variable.set(Scope(home=scope_variable.get().home))
    try:
        yield
    finally:
        scope_variable.reset(token)
