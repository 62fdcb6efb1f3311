"""What a policy tells those who listen: a hook is a function that is given each event, at once and in order.

Without a hook no event is made. A hook must not raise and must be quick; it runs in the middle of a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from covey.resilience.outcome import Verdict

Kind = Literal[
    "attempt",  # one attempt ended: took_s, and error and verdict unless it brought a result
    "retry",  # another attempt follows in wait_s
    "suppressed",  # no further attempt is made, though one might have helped: reason
    "open",  # the breaker opened
    "half_open",  # it lets one call through to probe
    "close",  # it closed
    "limit",  # the number of calls at once changed to value
    "shed",  # a call was refused here: reason
    "hedge",  # a second try began beside a slow first one
    "dedupe",  # a repeat was answered from the journal, or attached to the running call
    "suspect",  # a peer has been silent for suspiciously long
    "dead",  # a peer counts as gone
]


class PolicyEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened at ``at_s`` (monotonic); which of the other fields are set depends on the kind."""

    kind: Kind
    target: str
    at_s: float
    attempt: int | None = None
    took_s: float | None = None
    wait_s: float | None = None
    value: float | None = None
    reason: str | None = None
    verdict: Verdict | None = None
    error: BaseException | None = None


Hook = Callable[[PolicyEvent], None]
