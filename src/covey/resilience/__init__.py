"""What to do about failure: a ``Policy`` says it, a ``Target`` carries it out and keeps what is learned on the way.

The public names, each loaded when it is first used. The decisions are pure: time and chance come in as arguments. Only
``target`` and its parts (``flight``, ``watch``, ``waiting``, ...), which carry them out, know of loops and threads.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from covey.resilience.attempt import Attempt as Attempt
    from covey.resilience.backoff import Backoff as Backoff
    from covey.resilience.breaker import Breaker as Breaker
    from covey.resilience.budget import Budget as Budget
    from covey.resilience.detector import Detector as Detector
    from covey.resilience.events import PolicyEvent as PolicyEvent
    from covey.resilience.faults import Faults as Faults
    from covey.resilience.hedge import Hedge as Hedge
    from covey.resilience.limit import Limit as Limit
    from covey.resilience.outcome import Outcome as Outcome
    from covey.resilience.outcome import Outcomes as Outcomes
    from covey.resilience.outcome import Row as Row
    from covey.resilience.outcome import explain as explain
    from covey.resilience.outcome import row_of_user as row
    from covey.resilience.outcome import shipped as shipped_outcomes
    from covey.resilience.policy import Policy as Policy
    from covey.resilience.state import Health as Health
    from covey.resilience.target import Target as Target
    from covey.resilience.timeout import timeout as timeout

_HOMES: Final = {
    "Attempt": ("attempt", "Attempt"),
    "Backoff": ("backoff", "Backoff"),
    "Breaker": ("breaker", "Breaker"),
    "Budget": ("budget", "Budget"),
    "Detector": ("detector", "Detector"),
    "Faults": ("faults", "Faults"),
    "Health": ("state", "Health"),
    "Hedge": ("hedge", "Hedge"),
    "Limit": ("limit", "Limit"),
    "Outcome": ("outcome", "Outcome"),
    "Outcomes": ("outcome", "Outcomes"),
    "Policy": ("policy", "Policy"),
    "PolicyEvent": ("events", "PolicyEvent"),
    "Row": ("outcome", "Row"),
    "Target": ("target", "Target"),
    "explain": ("outcome", "explain"),
    "row": ("outcome", "row_of_user"),
    "shipped_outcomes": ("outcome", "shipped"),
    "timeout": ("timeout", "timeout"),
}

__all__ = [  # noqa: PLE0604, RUF100 -- the names of the table above, spelled out for readers and type checkers
    "Attempt",
    "Backoff",
    "Breaker",
    "Budget",
    "Detector",
    "Faults",
    "Health",
    "Hedge",
    "Limit",
    "Outcome",
    "Outcomes",
    "Policy",
    "PolicyEvent",
    "Row",
    "Target",
    "explain",
    "row",
    "shipped_outcomes",
    "timeout",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'covey.resilience' has no attribute {name!r}"
        raise AttributeError(message)
    module, attribute = home
    value: object = getattr(importlib.import_module(f"covey.resilience.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
