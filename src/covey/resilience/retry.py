"""Whether a failed attempt is made again, and after how long.

Source: the rules in the order in which ``reason_against`` asks them; protocol 3 for what may run twice.
"""

from __future__ import annotations

from typing import Final, Literal

from covey.resilience.backoff import Backoff
from covey.resilience.outcome import Outcome

Reason = Literal[
    "verdict", "may_have_run", "nested", "attempts", "asked_to_wait", "deadline", "budget", "event_loop", "circuit_open"
]

REASONS: Final[dict[Reason, str]] = {
    "verdict": "the same call would fail again",
    "may_have_run": "it may have run, and nothing says that it may run twice: give it a key, or say idempotent=True",
    "nested": "a policy around this one repeats it",
    "attempts": "there were enough attempts",
    "asked_to_wait": "the target asked to wait for longer than the policy does",
    "deadline": "not enough time remains for another attempt",
    "budget": "the target's budget for repeats is used up",
    "event_loop": "waiting here would block the event loop of this thread",
    "circuit_open": "the target failed too often lately",
}

# Clients that were told the same time must not come back at the same moment.
HINT_JITTER: Final = 0.1


def reason_against(
    outcome: Outcome, *, attempt: int, attempts_max: int, is_repeatable: bool, is_nested: bool
) -> Reason | None:
    """Return why there is no further attempt, or None when the time and the budget are left to ask.

    Args:
        outcome: what the last attempt ended in.
        attempt: which one that was, counted from 1.
        attempts_max: how many the policy allows.
        is_repeatable: the call does no harm when it runs twice, or carries a key that keeps it from that.
        is_nested: a policy around this one makes its attempts.
    """
    if outcome.wait == "none" or outcome.verdict in {"permanent", "cancelled"}:
        return "may_have_run" if outcome.verdict == "ambiguous" and not is_repeatable else "verdict"
    if outcome.executed != "no" and not is_repeatable:
        return "may_have_run"
    if is_nested:
        return "nested"
    return "attempts" if attempt >= attempts_max else None


def wait_s(outcome: Outcome, backoff: Backoff, *, attempt: int, jitter: float) -> float:
    """Return how long to wait before the next attempt, beside what the target itself asked for.

    Args:
        outcome: what the last attempt ended in.
        backoff: the schedule.
        attempt: which one that was, counted from 1.
        jitter: a number in [0, 1], drawn anew.
    """
    if outcome.wait == "immediate" and attempt == 1:
        return 0.0
    if outcome.retry_after_s is not None:
        return jitter * HINT_JITTER * outcome.retry_after_s
    return backoff.delay_s(attempt, jitter=jitter)
